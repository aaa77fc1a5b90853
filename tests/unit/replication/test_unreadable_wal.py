"""What recovery says of a record once is the end of WAL; twice, it is damage."""

from __future__ import annotations

import pytest

from replication.log_tail import LogLine
from replication.unreadable_wal import UnreadableWal

WRONG = "record with incorrect prev-link 0/0 at 0/187C6B0"


def said(message: str, backend: str = "startup", severity: str = "LOG") -> LogLine:
    return LogLine(message=message, backend_type=backend, error_severity=severity)


def test_the_same_word_about_a_record_tells_once() -> None:
    watch = UnreadableWal()
    waits = said("waiting for WAL to become available at 0/1802000")
    ended = said("terminating walreceiver process due to administrator command", "walreceiver", "FATAL")
    assert [watch.heard(line) for line in (said(WRONG), ended, said(WRONG), waits, said(WRONG))] == [
        False,
        False,
        True,
        False,
        False,
    ]


def test_another_record_tells_again() -> None:
    watch, other = UnreadableWal(), WRONG.replace("187C", "187D")
    assert [watch.heard(said(one)) for one in (WRONG, WRONG, other, other, other)] == [False, True, False, True, False]


@pytest.mark.parametrize(
    "line",
    [
        said("waiting for WAL to become available at 0/1802000"),
        said("redo starts at 0/E00028"),
        said("consistent recovery state reached at 0/1780C20"),
        said("recovery has paused"),
        said(WRONG, "checkpointer"),
        said(WRONG, severity="DEBUG"),
    ],
)
def test_what_is_no_complaint_of_recovery_tells_nothing(line: LogLine) -> None:
    watch = UnreadableWal()
    assert [watch.heard(line) for _ in range(3)] == [False] * 3
