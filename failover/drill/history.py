"""What the clients of a drill asked and were told: one line of JSON an operation, in the order in which they ended.

An operation ends *ok* (it was answered as done), *fail* (refused: it has not happened), or *unknown* (no answer, or one that
leaves it open). A time-out is unknown, never fail. (After Jepsen's ok, fail and info.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path

import msgspec


class Do(StrEnum):
    """What a client does."""

    FIND = "find"
    HOLD = "hold"
    BOOK = "book"
    MOVE = "move"
    CANCEL = "cancel"
    READ = "read"


WRITES = frozenset({Do.HOLD, Do.BOOK, Do.MOVE, Do.CANCEL})


class Outcome(StrEnum):
    """How it ended, as far as the client can know."""

    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """An appointment as somebody sees it: asked for, answered, or lying in the database. Times are seconds since 1970."""

    status: str
    start_s: int
    end_s: int
    practitioner: str
    patient: str | None
    location: str | None = None
    device: str | None = None
    version: int = 1
    comment: str | None = None
    """A digest of it."""

    def means_the_same(self, other: Facts) -> bool:
        """Who, where, when and whether; not which version."""
        return msgspec.structs.replace(self, version=0) == msgspec.structs.replace(other, version=0)


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One request with its repetitions by the same client. Times are seconds of one monotonic clock.

    `appointment`: the id that was asked about, or given in the answer. `asked`: what a write wants to be true.
    `found`: what an ok answer said; None for a read that was told that there is none. `stale_s`: the answer's own words
    about its age (X-Locum-Stale). `ended_s`: None when no answer ever came.
    """

    number: int
    client: int
    do: Do
    began_s: float
    ended_s: float | None
    outcome: Outcome
    key: str | None = None
    appointment: str | None = None
    asked: Facts | None = None
    found: Facts | None = None
    stale_s: int | None = None
    status: int | None = None
    """HTTP's, of the last answer."""
    error: str | None = None

    @property
    def is_acknowledged_write(self) -> bool:
        """A promise."""
        return self.do in WRITES and self.outcome is Outcome.OK


class HistoryWriter:
    """Appends to a file. Each line is written whole; the file is read again by `read_history`, also after a crash."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def append(self, operation: Operation) -> None:
        """One more operation has ended."""
        self._file.write(msgspec.json.encode(operation) + b"\n")

    def close(self) -> None:
        """No more."""
        self._file.close()


def read_history(path: Path) -> list[Operation]:
    """All whole lines. Raises OSError, msgspec.DecodeError for a line in the middle that is none."""
    return list(_parsed(path.read_bytes().split(b"\n")))


def _parsed(lines: Iterable[bytes]) -> Iterator[Operation]:
    *whole, _cut_off = lines
    for line in whole:
        yield msgspec.json.decode(line, type=Operation)
