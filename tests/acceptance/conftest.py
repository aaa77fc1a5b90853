"""Acceptance tests run the whole thing: while a part of it does not exist yet, they are skipped, and say which."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

PARTS = ("replication.agent", "replication.client", "failover.controller", "server.app")
MISSING = [part for part in PARTS if find_spec(part) is None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs all four processes, with the parts that are missing as the reason."""
    if not MISSING:
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"needs parts that do not exist yet: {', '.join(MISSING)}"))
