"""Hold and replay: every operation on the database runs until it has an answer that may be given, or its deadline.

A write of unknown outcome is simply run again: the idempotency row in its transaction says whether it had happened. A
read that failed runs again too, on the primary or, while there is none, on a standby.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import asyncpg
import msgspec

from server import store
from server.barrier import Barrier
from server.batch import Alone, Batcher, Member, Results
from server.database import Database
from server.errors import (
    ConnectionLost,
    DatabaseConflict,
    NoConnection,
    NotServing,
    OutcomeUnknown,
    Refusal,
    TryAgain,
    UnexpectedDatabaseError,
)
from server.evidence import Evidence
from server.expected import Standing
from server.limits import Admission
from server.link import ROW_VANISHED_SQLSTATE, Link
from server.metrics import Metrics
from server.pool import Pool, Spawn
from server.retries import once_more_after_deadlock, replaying
from server.store import Kept

T = TypeVar("T")

Expect = Callable[[], list[Standing]]

_STANDBY_AFTER_S = 0.25
"""A failover is shorter: until then a read waits for the new primary instead of asking the candidate."""
_STANDBY_LINK_S = 1.0
_RETRY_AFTER_S = 2
_QUEUE_MS_MAX = 1_500
_QUEUE_FREE = 300
_DISK_FULL = "53100"
_STALE = "SELECT extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 AS age_s"


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """`stale_s`: None from the primary; else the value may lack what was committed in the last so many seconds."""

    value: T
    stale_s: int | None = None


class Replay:
    """The one way from a request to the database."""

    def __init__(
        self, database: Database, evidence: Evidence, metrics: Metrics, lease_ttl_ms: int, spawn: Spawn
    ) -> None:
        self.suspect: Callable[[Sequence[Standing]], None] = lambda _standing: None
        """Told what the primary does not show although it was acknowledged."""
        self._spawn = spawn
        self._batcher: tuple[Pool, Batcher] | None = None
        self._admission = Admission(_QUEUE_MS_MAX, _QUEUE_FREE)
        self._waiting = 0
        """Writes that were let in and are not answered."""
        self._database = database
        self._evidence = evidence
        self._metrics = metrics
        self._lease_ttl_s = lease_ttl_ms / 1000

    async def write(self, sql: str, args: tuple[object, ...], until_s: float, expect: Expect | None = None) -> Any:
        """The value of a statement that commits exactly once, given by `until_s` (time.monotonic). `expect`: asked at each try
        for the appointments that are in its way; they become the last argument.

        It must be safe to run again (an idempotency row, or idempotent by itself). Raises Refusal 503,
        DatabaseConflict, or the asyncpg.PostgresError of a refusal.
        """
        try:
            return await replaying(until_s - time.monotonic())(self._write_once, sql, args, until_s, expect)
        except TryAgain as error:
            raise _unavailable(error) from error

    async def take(self, member: Member, expect: Expect, until_s: float) -> Kept | str:
        """What is kept of a new appointment, or the word of its refusal: written with others that come at the same time.

        Raises Refusal 503, or Alone when it must be written by itself.
        """
        self._admit()
        self._waiting += 1
        try:
            return await self._take(member, expect, until_s)
        finally:
            self._waiting -= 1

    @property
    def refused(self) -> int:
        """Writes that were not let in, because the queue is too long."""
        return self._admission.refused

    def _admit(self) -> None:
        """While there is a primary, no more is let in than it answers in time. Without one everybody waits for the next."""
        if self._database.primary is not None and not self._admission.admits(self._waiting):
            wait_s = math.ceil(self._admission.wait_s(self._waiting))
            sentence = "too many want to book just now: nothing was booked; repeat it with the same Idempotency-Key"
            raise Refusal(503, "throttled", sentence, retry_after_s=max(1, wait_s))

    async def _take(self, member: Member, expect: Expect, until_s: float) -> Kept | str:
        with contextlib.suppress(TryAgain):  # nearly always it is written at the first try, which costs no policy
            return await self._take_once(member, expect, until_s)
        try:
            return await replaying(until_s - time.monotonic())(self._take_once, member, expect, until_s)
        except TryAgain as error:
            raise _unavailable(error) from error

    async def read(self, query: Callable[[Link, float], Awaitable[T]], until_s: float) -> Answer[T]:
        """The value of a read, and how stale it may be. Raises Refusal 503."""
        reader = _Reader(self._database, self._evidence, query, until_s, self._lease_ttl_s)
        try:
            answer: Answer[T] = await replaying(until_s - time.monotonic())(reader.once)
        except TryAgain as error:
            raise _unavailable(error) from error
        if answer.stale_s is not None:
            self._metrics.stale_reads.inc()
        return answer

    async def _take_once(self, member: Member, expect: Expect, until_s: float) -> Kept | str:
        pool = await self._database.writable(until_s)
        if pool is None:
            raise NoConnection("there is no primary that takes writes")
        if self._batcher is None or self._batcher[0] is not pool:
            if self._batcher is not None:
                self._admission.pardon()
            self._batcher = (
                pool,
                Batcher(functools.partial(self._send_batch, pool), self._spawn, self._admission.answered),
            )
        self._evidence.flight_changed(1)
        try:
            found = await self._batcher[1].submit(member, expect, until_s)
        finally:
            self._evidence.flight_changed(-1)
        if isinstance(found, str):
            await _prove(self._database.barrier, until_s)
        return found

    async def _send_batch(
        self, pool: Pool, members: Sequence[Member], expected: list[Standing], until_s: float
    ) -> Results:
        args = msgspec.json.encode(members).decode(), _encoded(expected)
        try:
            async with pool.link(until_s - time.monotonic()) as link:
                if self._database.is_held:
                    raise NoConnection("a switchover has begun")
                value = await self._send(pool, link, store.TAKE_MANY, args, until_s, expected)
        except (DatabaseConflict, UnexpectedDatabaseError, asyncpg.PostgresError) as error:
            raise Alone from error
        return msgspec.json.decode(value, type=Results)

    async def _write_once(self, sql: str, args: tuple[object, ...], until_s: float, expect: Expect | None) -> Any:
        pool = await self._database.writable(until_s)
        if pool is None:
            raise NoConnection("there is no primary that takes writes")
        expected = expect() if expect is not None else []
        if expect is not None:
            args = (*args, _encoded(expected))
        self._evidence.flight_changed(1)
        try:
            async with pool.link(until_s - time.monotonic()) as link:
                if self._database.is_held:
                    raise NoConnection("a switchover has begun")
                return await once_more_after_deadlock()(self._send, pool, link, sql, args, until_s, expected)
        except (DatabaseConflict, asyncpg.PostgresError):
            # A refusal is a read's answer: it must not come from a primary that has been superseded.
            await _prove(self._database.barrier, until_s)
            raise
        finally:
            self._evidence.flight_changed(-1)

    async def _send(
        self,
        pool: Pool,
        link: Link,
        sql: str,
        args: tuple[object, ...],
        until_s: float,
        expected: Sequence[Standing] = (),
    ) -> Any:
        began_s = time.monotonic()
        attempt = self._evidence.write_started()
        try:
            value = await link.write(sql, *args, deadline_s=until_s - began_s)
        except (ConnectionLost, NotServing) as error:
            self._evidence.write_failed(attempt, error)
            if isinstance(error, NotServing) and error.sqlstate == ROW_VANISHED_SQLSTATE:
                self.suspect(expected)
            if isinstance(error, NotServing) and error.sqlstate == _DISK_FULL:
                raise _unavailable(error, "the database's disk is full: nothing was booked") from error
            self._metrics.unknown_outcomes.inc()
            raise
        except OutcomeUnknown:
            self._evidence.write_returned(attempt)
            self._metrics.unknown_outcomes.inc()
            raise
        except BaseException:
            self._evidence.write_returned(attempt)
            raise
        self._evidence.write_returned(attempt)
        pool.proved(began_s)
        return value


class _Reader(Generic[T]):
    """One read and where it is tried next."""

    def __init__(
        self,
        database: Database,
        evidence: Evidence,
        query: Callable[[Link, float], Awaitable[T]],
        until_s: float,
        lease_ttl_s: float,
    ) -> None:
        self._database = database
        self._evidence = evidence
        self._query = query
        self._until_s = until_s
        self._lease_ttl_s = lease_ttl_s
        self._distrusted: Pool | None = None

    async def once(self) -> Answer[T]:
        now_s = time.monotonic()
        standby = self._database.standby()
        primary = self._database.primary
        if primary is None or (primary is self._distrusted and standby is not None):
            wait_until_s = self._until_s if standby is None else min(self._until_s, now_s + _STANDBY_AFTER_S)
            primary = None if primary is not None else await self._database.readable(wait_until_s)
        if primary is not None:
            return await self._from_primary(primary)
        standby = self._database.standby()
        if standby is None:
            raise NoConnection("there is neither a primary nor a standby that may answer")
        self._distrusted = None
        return await self._from_standby(standby)

    async def _from_primary(self, pool: Pool) -> Answer[T]:
        barrier = self._database.barrier
        until_s = min(self._until_s, time.monotonic() + self._lease_ttl_s)
        try:
            if barrier is not None:
                barrier.renew()
            async with pool.link(until_s - time.monotonic()) as link:
                value = await self._query(link, until_s - time.monotonic())
            await _prove(barrier, until_s)
        except (ConnectionLost, NoConnection):
            self._distrusted = pool
            raise
        except NotServing as error:
            if not pool.is_closed:
                self._evidence.answered_with_fault(error)
            raise
        if pool.is_closed:
            raise NoConnection("the primary was replaced while it answered")
        return Answer(value)

    async def _from_standby(self, pool: Pool) -> Answer[T]:
        async with pool.link(min(_STANDBY_LINK_S, self._until_s - time.monotonic())) as link:
            (row,) = await link.fetch(_STALE, deadline_s=_STANDBY_LINK_S)
            if row["age_s"] is None:
                raise NotServing(f"{pool.endpoint.name} has replayed nothing yet: nobody knows how old its rows are")
            value = await self._query(link, self._until_s - time.monotonic())
        return Answer(value, max(0, math.ceil(row["age_s"])))


def _encoded(expected: Sequence[Standing]) -> str | None:
    return msgspec.json.encode(expected).decode() if expected else None


async def _prove(barrier: Barrier | None, until_s: float) -> None:
    if barrier is None:
        raise NoConnection("the primary has just gone")
    await barrier.prove(until_s)


def _unavailable(error: TryAgain, sentence: str | None = None) -> Refusal:
    said = (
        sentence
        or f"no answer could be had from the database in time ({error}); repeat it with the same Idempotency-Key"
    )
    return Refusal(503, "transient", said, retry_after_s=_RETRY_AFTER_S)
