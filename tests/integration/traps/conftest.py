"""The PostgreSQL under test: the one that Locum chooses, and for tests marked `both_versions` another major version too."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from replication.installation import Installation, usable_installations

CHOSEN, OTHER = "chosen", "other"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that ask for `bindir` run on the chosen version, and on another one when they are marked."""
    if "bindir" in metafunc.fixturenames:
        marked = metafunc.definition.get_closest_marker("both_versions") is not None
        metafunc.parametrize("bindir", [CHOSEN, OTHER] if marked else [CHOSEN], indirect=True)


@pytest.fixture
def bindir(request: pytest.FixtureRequest) -> Path:
    """Where the PostgreSQL under test is."""
    chosen = _installed()[0]
    if request.param == CHOSEN:
        return chosen.bindir
    other = next((found for found in _installed() if found.version[0] != chosen.version[0]), None)
    if other is None:
        pytest.skip(f"only PostgreSQL {chosen.version[0]} is installed: there is no other major version to run it on")
    return other.bindir


@cache
def _installed() -> list[Installation]:
    return list(usable_installations([]))
