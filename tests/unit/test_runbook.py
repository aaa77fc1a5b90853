"""docs/RUNBOOK.md has a row for every phase and every verdict, and says what not to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from replication.model import FaultKind
from replication.topology import Phase

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "RUNBOOK.md").read_text(encoding="utf-8")
ROWS = [line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("word", [*(kind.value for kind in FaultKind), *(phase.value for phase in Phase)])
def test_everything_that_locum_may_say_has_a_row(word: str) -> None:
    (row,) = [cells for cells in ROWS if len(cells) == 5 and word in re.findall(r"\w+", cells[0])]
    assert all(cell.strip() for cell in row[1:4]), row
