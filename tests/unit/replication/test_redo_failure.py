"""What a startup process says when it breaks down."""

from __future__ import annotations

import pytest

from replication.redo_failure import parse_redo_failure
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
