"""What a startup process says when it breaks down."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from replication.local_node import LocalNode
from replication.log_tail import LogLine
from replication.redo_failure import RedoWatch, parse_redo_failure
from replication.scrub.wal_ledger import Relation

SAID = "WAL redo at 0/3A5F2C8 for Heap/INSERT: off: 12, flags: 0x00; blkref #0: rel 1663/16386/17252, blk 9"


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (SAID, (0x3A5F2C8, Relation(1663, 16386, 17252), 9)),
        (SAID.replace("17252, blk", "17252, fork 2, blk"), (0x3A5F2C8, None, None)),
        ("WAL redo at 0/3A5F2C8 for Database/DROP: dir 1663/5", (0x3A5F2C8, None, None)),
        ("while scanning block 3", None),
        ("", None),
    ],
)
def test_the_record_and_its_block_are_read(context: str, expected: object) -> None:
    assert parse_redo_failure(context) == expected


@pytest.mark.parametrize(
    ("state_code", "expected"),
    [("XX000", True), ("XX001", True), ("53100", False), ("58030", False), ("42501", False), ("57P01", False)],
)
def test_a_disk_that_is_full_or_broken_is_no_question_of_whose_page_is_wrong(state_code: str, expected: bool) -> None:
    """Nobody waits for an answer: the standby is lost at once, and its primary goes on."""
    told: list[str] = []
    local = SimpleNamespace(memory=SimpleNamespace(redo_failure=None), publish=told.append)
    line = LogLine(context=SAID, message="could not extend file", state_code=state_code, backend_type="startup")
    assert RedoWatch(cast("LocalNode", local)).heard(line) is expected
    assert (local.memory.redo_failure is not None) is expected
    assert told == (["redo_failed"] if expected else [])
