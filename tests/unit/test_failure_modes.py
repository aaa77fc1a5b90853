"""docs/FAILURE_MODES.md names every scenario that ships, and no test or scenario that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from failover.drill.scenario import shipped

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "FAILURE_MODES.md").read_text(encoding="utf-8")
ROWS = [line.strip().strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| ")]
SHOWN_BY = [cells[-1].strip() for cells in ROWS if len(cells) == 7][1:]
NAMES = {scenario.name for scenario in shipped()}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_scenario_has_its_row(name: str) -> None:
    assert any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", cell) for cell in SHOWN_BY), (
        f"no row is shown by {name}"
    )


def test_what_rows_are_shown_by_is_there() -> None:
    for cell in SHOWN_BY:
        for test in re.findall(r"(?:acceptance|integration|unit)/[\w/]+", cell):
            assert (ROOT / "tests" / f"{test}.py").exists(), f"{test} is named and not there"
        drills = re.search(r"drills? ([^()|:]*)", cell)
        for name in re.findall(r"[\w-]+", drills[1]) if drills is not None else []:
            assert name in NAMES or name in ("PostgreSQL", "and"), f"drill {name} is named and not there"


def test_every_row_is_whole() -> None:
    for cells in ROWS:
        assert len(cells) in (3, 7), cells
