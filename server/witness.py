"""What this server has seen of the primary: pure bookkeeping, from which its evidence is made.

Only attempts count: an idle server knows nothing, and says so. An answer of the database counts as a return whatever it
says (a conflict is a healthy database's answer).
"""

from __future__ import annotations

import asyncio

import asyncpg

from replication.faults import BY_SQLSTATE
from replication.model import Cause, FaultKind
from server.errors import NotServing

HANGING_MS = 100
"""A write that is out for less is not called failing."""


class WriteWitness:
    """Attempts to write to the primary of one term; all times in ms of one monotonic clock."""

    def __init__(self) -> None:
        self._out: dict[int, int] = {}
        self._number = 0
        self._last_return_ms: int | None = None
        self._failed_since_ms: int | None = None

    def started(self, now_ms: int) -> int:
        """An attempt begins: its number."""
        self._number += 1
        self._out[self._number] = now_ms
        return self._number

    def returned(self, number: int, now_ms: int) -> None:
        """The database answered it."""
        self._out.pop(number, None)
        self._last_return_ms = now_ms
        self._failed_since_ms = None

    def failed(self, number: int) -> None:
        """It was given up, or its connection ended, without an answer."""
        began_ms = self._out.pop(number, None)
        if began_ms is not None and self._failed_since_ms is None:
            self._failed_since_ms = began_ms

    def connect_failed(self, now_ms: int) -> None:
        """Nobody could be asked at all."""
        if self._failed_since_ms is None:
            self._failed_since_ms = now_ms

    def connected(self) -> None:
        """It lets us in again: what failed is past. Writes that are still out go on counting."""
        self._failed_since_ms = None

    def failing_ms(self, now_ms: int) -> int | None:
        """How long no attempt has come back although some were made; None while they do, or none is made."""
        starts = list(self._out.values())
        if self._failed_since_ms is not None:
            starts.append(self._failed_since_ms)
        if not starts:
            return None
        since = max(min(starts), self._last_return_ms or 0)
        failing = now_ms - since
        return failing if self._failed_since_ms is not None or failing >= HANGING_MS else None


def word_for(error: BaseException) -> str:
    """How an attempt to reach the primary failed, as ServerReport.connect_error says it."""
    cause = error
    while cause.__cause__ is not None and not isinstance(cause, asyncpg.PostgresError | NotServing):
        cause = cause.__cause__
    sqlstate = getattr(cause, "sqlstate", None)
    if sqlstate is not None:
        return str(sqlstate)
    if isinstance(cause, NotServing):
        return "not_primary"
    if isinstance(cause, ConnectionRefusedError):
        return "refused"
    if isinstance(cause, TimeoutError | asyncio.TimeoutError):
        return "timeout"
    return "reset"


def fault_for(sqlstate: str | None) -> FaultKind | None:
    """The fault that an SQLSTATE in the server's own answer shows (DESIGN section 5)."""
    kind = BY_SQLSTATE.get(sqlstate or "")
    return kind if kind is not None and kind.cause is not Cause.OVERLOAD else None
