"""Group commit: bookings that come together share one transaction, one statement, one wait for the standby; each keeps its own
result and its own error.

A batch begins as soon as one may: what has come until then goes with it, so that a lone booking never waits for others. What the
set cannot decide (schema.sql, locum_take_many) is written alone.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any

import msgspec

from server.errors import ConnectionLost
from server.expected import Standing
from server.patience import within
from server.store import Kept, KeptRow

MEMBERS_MAX = 64
BATCHES_MAX = 1
"""At a time. With two, each is half as large and the database works more for the same: 1.15 against 1.01 of pgbench (bench/booking.py)."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One new appointment, as locum_take_many reads it; `n` is its number in the batch. `digest`: hexadecimal."""

    n: int = 0
    key: str
    digest: str
    id: uuid.UUID
    status: str
    slot: uuid.UUID
    practitioner: str | None
    patient: str | None
    patient_name: str | None
    comment: str | None
    not_before: datetime
    hold_until: datetime | None
    agent: str
    audit: uuid.UUID


class Result(msgspec.Struct, frozen=True):
    """What became of one member: what is kept, or the word of its refusal."""

    n: int
    kept: KeptRow | None = None
    refused: str | None = None


class Results(msgspec.Struct, frozen=True):
    """Of a whole batch, and where the WAL was when it was about to commit."""

    results: tuple[Result, ...]
    insert_lsn: int
    wal_file: str

    def of(self, n: int) -> Kept | str:
        """The answer of one member."""
        result = self.results[n]
        if result.kept is None:
            return result.refused or "conflict"
        kept = result.kept
        return Kept(kept.status, kept.appointment, kept.digest, self.insert_lsn, self.wal_file)


class Alone(Exception):
    """The set could not decide: write this one by itself."""


Send = Callable[[Sequence[Member], list[Standing], float], Awaitable[Results]]
"""Writes a batch by a time (time.monotonic). Raises Alone, or what an attempt to write raises."""


class _Waiting(msgspec.Struct):
    member: Member
    expect: Callable[[], list[Standing]]
    until_s: float
    answer: asyncio.Future[Kept | str]


class Batcher:
    """`submit` what belongs to one pool, hence to one term. `spawn` keeps the tasks of batches; `answered(count, waiting)` is told
    after each that the database has answered."""

    def __init__(
        self,
        send: Send,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        answered: Callable[[int, int], None] = lambda _count, _waiting: None,
    ) -> None:
        self._answered = answered
        self._send = send
        self._spawn = spawn
        self._queue: deque[_Waiting] = deque()
        self._running = 0
        self._is_due = False

    async def submit(self, member: Member, expect: Callable[[], list[Standing]], until_s: float) -> Kept | str:
        """What is kept, or the word of a refusal. Raises Alone, or what the attempt raised; ConnectionLost at `until_s`: the
        batch goes on, and its outcome is unknown."""
        waiting = _Waiting(member, expect, until_s, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._soon()
        try:
            return await within(waiting.answer, until_s - time.monotonic())
        except TimeoutError:
            raise ConnectionLost("the batch of this booking did not end in time") from None

    def _soon(self) -> None:
        """After everything that is ready on the loop now: the requests that came in together go together."""
        if not self._is_due and self._running < BATCHES_MAX and self._queue:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._is_due = False
        batch: list[_Waiting] = []
        while self._queue and len(batch) < MEMBERS_MAX:
            waiting = self._queue.popleft()
            if not waiting.answer.done():
                batch.append(waiting)
        if batch:
            self._running += 1
            self._spawn(self._run(batch))
        self._soon()

    async def _run(self, batch: list[_Waiting]) -> None:
        members = [msgspec.structs.replace(waiting.member, n=n) for n, waiting in enumerate(batch)]
        expected = {one.id: one for waiting in batch for one in waiting.expect()}
        try:
            results = await self._send(members, list(expected.values()), max(waiting.until_s for waiting in batch))
        except asyncio.CancelledError:
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(ConnectionLost("the batch of this booking was broken off"))
                    waiting.answer.exception()
            raise
        except BaseException as error:  # noqa: BLE001  handed to those who wait for it
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
                    waiting.answer.exception()  # looked at, should nobody wait any more
        else:
            self._answered(len(batch), len(self._queue))
            for n, waiting in enumerate(batch):
                if not waiting.answer.done():
                    waiting.answer.set_result(results.of(n))
        finally:
            self._running -= 1
            self._soon()
