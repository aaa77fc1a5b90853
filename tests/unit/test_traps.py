"""docs/TRAPS.md names tests and functions that exist, and every test of a trap quotes what it stands for."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "TRAPS.md"
TRAPS = ROOT / "tests" / "integration" / "traps"
DAGGERS = {4: 28, 6: 8}
"""How many sentences of these sections DESIGN marks."""
NOT_OURS = "not Locum's doing: "
_NAMED = re.compile(r"`([^`]+)`")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Row(msgspec.Struct, frozen=True):
    """One line of a table."""

    section: str
    trap: str
    what: str
    where: tuple[str, ...]
    tests: tuple[str, ...]


def rows() -> list[Row]:
    section, found = "", []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[0] != "trap, in DESIGN's words":
            trap, what, where, tests = cells
            found.append(Row(section, trap, what, tuple(_NAMED.findall(where)), tuple(_NAMED.findall(tests))))
    return found


@cache
def functions(path: str) -> dict[str, Function]:
    """Every function and method of a file, by its name."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name: node for node in ast.walk(tree) if isinstance(node, Function)}


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_every_sentence_has_its_row() -> None:
    for section, count in DAGGERS.items():
        assert sum(row.section == f"Section {section}" for row in rows()) == count


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.trap[:50])
def test_a_row_names_what_exists_and_its_tests_quote_it(row: Row) -> None:
    if row.what.startswith(NOT_OURS):
        assert not row.tests
        return
    assert row.where
    assert row.tests
    for place in row.where:
        path, _, name = place.partition(":")
        assert name in functions(path), place
    for test in row.tests:
        path, _, name = test.partition("::")
        assert name in functions(path), test
        docstring = one_line(ast.get_docstring(functions(path)[name]) or "")
        assert "DESIGN" in docstring, test
        assert one_line(row.trap) in docstring, test


def test_every_test_of_a_trap_is_on_the_page() -> None:
    named = {test for row in rows() for test in row.tests}
    for path in TRAPS.glob("test_*.py"):
        relative = path.relative_to(ROOT).as_posix()
        tests = {f"{relative}::{name}" for name in functions(relative) if name.startswith("test_")}
        assert tests <= named, tests - named
