"""The history on disk: what was written is read, and a line that a crash cut off is not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from failover.drill.history import Do, Facts, HistoryWriter, Operation, Outcome, read_history

FACTS = Facts(status="booked", start_s=0, end_s=1800, practitioner="p", patient="ada", location="r", version=2)


def operation(number: int) -> Operation:
    return Operation(
        number=number,
        client=1,
        do=Do.BOOK,
        began_s=1.5,
        ended_s=None,
        outcome=Outcome.UNKNOWN,
        key="k",
        asked=FACTS,
    )


def test_what_was_written_is_read_in_order(tmp_path: Path) -> None:
    writer = HistoryWriter(tmp_path / "history.jsonl")
    for number in range(5):
        writer.append(operation(number))
    writer.close()
    assert read_history(tmp_path / "history.jsonl") == [operation(number) for number in range(5)]


def test_a_line_that_was_cut_off_is_no_operation_and_one_that_was_damaged_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    writer = HistoryWriter(path)
    writer.append(operation(0))
    writer.append(operation(1))
    writer.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert read_history(path) == [operation(0)]
    path.write_bytes(b"x" + whole)
    with pytest.raises(msgspec.DecodeError):
        read_history(path)
