"""One connection to one node in one term, and statements with a deadline that never sends a cancel.

asyncpg sends a cancel request on every time-out and task cancellation, and a cancelled wait for synchronous replication
commits locally and reports success (syncrep.c). So a statement here runs in a task of its own; at the deadline the
connection is terminated, and what became of a write is unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import asyncpg
import msgspec

from replication.faults import place_of, told_sqlstate
from replication.model import Role
from server.errors import (
    ConnectionLost,
    DatabaseConflict,
    IndexMisleads,
    NotServing,
    OutcomeUnknown,
    UnexpectedDatabaseError,
)
from server.retries import until_term_fits
from server.witness import fault_for

T = TypeVar("T")

CONNECT_DEADLINE_S = 1.0
_TERM_DEADLINE_S = 1.0
_CHECK = "SELECT current_setting('locum.term', true) AS term, pg_is_in_recovery() AS recovering"
_PING = "SELECT pg_logical_emit_message(true, 'locum.server', '')"
_SESSION = {
    "application_name": "locum_server",
    "synchronous_commit": "on",  # beats settings of role and database (DESIGN section 4)
    "search_path": "public",
    "timezone": "UTC",
    "statement_timeout": "0",
    "jit": "off",
}
SEAL_BROKEN_SQLSTATE = "LC002"
"""What schema.sql raises over a row that does not fit its seal: it is held, as a row that is not served."""
ROW_VANISHED_SQLSTATE = "LC003"
"""What schema.sql raises when an appointment that was acknowledged, and is in the way of a booking, is not there."""
REFUSED_SQLSTATE = "LC001"
"""What schema.sql raises on purpose; the message is a word of server/refusals.py."""
_CONFLICTS = ("23P01", "40P01")
_UNIQUE, _IDS = "23505", "appointment_pkey"
_NOT_SERVING = (
    "53",
    "57",
    "58",
    "08",
    "XX",
    "25006",
    "28",
    "3D000",
    "40001",
    "55000",
    "42P01",
    "42883",
    "P0002",
    "LC002",
    "LC003",
)
"""Classes and codes of a node that cannot serve now: full, shutting down, I/O, damaged, read-only, still closed; and one whose
indexes contradict its tables (P0002: schema.sql does not find the row that it has just written), or whose rows have vanished."""
_DRIVER_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_TORN_ERRORS = (*_DRIVER_ERRORS, AttributeError)
"""A connection that is dropped between two steps of a statement has no protocol any more: asyncpg then meets None."""
"""The last one is asyncpg's word for a server that said FATAL, a shutdown, between two messages of one statement."""
CONNECT_ERRORS = (*_DRIVER_ERRORS, TimeoutError, NotServing, ConnectionLost)


class Login(msgspec.Struct, frozen=True):
    """What a session needs: the server's password, and the key of the rows' seals, which lives in memory only."""

    password: str
    seal_key: str = ""


class Endpoint(msgspec.Struct, frozen=True):
    """A node as the topology record names it, in one term."""

    name: str
    dsn: str
    term: int
    role: Role


class Link:
    """A connection whose role and term were checked when it was opened. One statement at a time."""

    def __init__(self, connection: asyncpg.Connection, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.on_end: Callable[[Link], None] | None = None
        """Called when the other side ended the connection, idle or not; not after `terminate`."""
        self._connection = connection
        self._wait_cancelled = False
        connection.add_log_listener(self._note)
        connection.add_termination_listener(self._ended)

    @property
    def is_open(self) -> bool:
        """False once the connection has ended, from either side."""
        return not self._connection.is_closed()

    def terminate(self) -> None:
        """Drop it at once; whatever runs on it ends with ConnectionLost."""
        self.on_end = None
        self._connection.terminate()

    async def fetch(self, sql: str, *args: object, deadline_s: float) -> list[asyncpg.Record]:
        """Rows of a read. Raises ConnectionLost or NotServing."""
        found: list[asyncpg.Record] = await self._run(self._connection.fetch(sql, *args), deadline_s)
        return found

    async def write(self, sql: str, *args: object, deadline_s: float) -> Any:
        """The one value of a statement that commits.

        Raises ConnectionLost or OutcomeUnknown (it may have happened), NotServing, DatabaseConflict, or the
        asyncpg.PostgresError of a refusal (it has not).
        """
        self._wait_cancelled = False
        value = await self._run(self._connection.fetchval(sql, *args), deadline_s)
        if self._wait_cancelled:
            raise OutcomeUnknown(f"{self.endpoint.name} was told to wait no longer for its standby")
        return value

    async def ping(self, *, deadline_s: float) -> float:
        """A synchronous commit that touches no row: when it was started (time.monotonic)."""
        began = time.monotonic()
        await self.write(_PING, deadline_s=deadline_s)
        return began

    async def _run(self, work: Coroutine[Any, Any, T], deadline_s: float) -> T:
        task = asyncio.ensure_future(work)
        try:
            done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline_s))
        except asyncio.CancelledError:
            await self._abandon(task)
            raise
        if not done:
            await self._abandon(task)
            raise ConnectionLost(f"{self.endpoint.name} did not answer within {deadline_s:.1f} s")
        try:
            return task.result()
        except _TORN_ERRORS as error:
            if isinstance(error, AttributeError) and not self._connection.is_closed():
                raise
            translated = self._translated(error)
            raise translated from (None if isinstance(translated, UnexpectedDatabaseError) else error)

    async def _abandon(self, task: asyncio.Future[Any]) -> None:
        self.terminate()
        with contextlib.suppress(*_TORN_ERRORS):
            await task

    def _translated(self, error: Exception) -> Exception:
        sqlstate = getattr(error, "sqlstate", None)
        if isinstance(sqlstate, str):
            sqlstate = told_sqlstate(sqlstate, str(error))
        if sqlstate in _CONFLICTS:
            return DatabaseConflict(str(sqlstate), getattr(error, "constraint_name", None))
        if isinstance(error, asyncpg.InternalClientError):
            self._connection.terminate()
        if isinstance(error, OSError) or self._connection.is_closed():
            return ConnectionLost(f"the connection to {self.endpoint.name} ended: {sqlstate or error!r}")
        if isinstance(sqlstate, str) and sqlstate.startswith(_NOT_SERVING):
            place = place_of(str(error)) if fault_for(sqlstate) is not None else None
            return NotServing(f"{self.endpoint.name} cannot serve now (SQLSTATE {sqlstate})", sqlstate, place)
        if sqlstate == REFUSED_SQLSTATE:
            return error
        constraint = getattr(error, "constraint_name", None)
        if (
            sqlstate == _UNIQUE and constraint == _IDS
        ):  # ids are new, or are not changed: its index and its table disagree
            return IndexMisleads(f"{self.endpoint.name} takes one appointment for another", sqlstate)
        return UnexpectedDatabaseError(f"{type(error).__name__}, SQLSTATE {sqlstate}, constraint {constraint}")

    def _note(self, _connection: object, message: asyncpg.PostgresLogMessage) -> None:
        # syncrep.c: "canceling wait for synchronous replication …" on a cancel, and when the backend is terminated
        # "canceling the wait for synchronous replication …"; then the connection ends without an answer too.
        if message.sqlstate in ("01000", "57P01") and "synchronous replication" in str(message):
            self._wait_cancelled = True

    def _ended(self, _connection: object) -> None:
        if self.on_end is not None:
            self.on_end(self)


async def open_link(endpoint: Endpoint, login: Login, warm_up: Sequence[str] = ()) -> Link:
    """Connect, check role and term, and run `warm_up` (reads). Raises one of CONNECT_ERRORS; a connection of another
    term is closed."""
    connection = await asyncpg.connect(
        endpoint.dsn,
        password=login.password,
        timeout=CONNECT_DEADLINE_S,
        ssl=False,
        server_settings={**_SESSION, "locum.seal_key": login.seal_key},
    )
    link = Link(connection, endpoint)
    await admit(link, endpoint)
    try:
        for statement in warm_up:
            await link.fetch(statement, deadline_s=CONNECT_DEADLINE_S)
    except BaseException:
        link.terminate()
        raise
    return link


async def admit(link: Link, endpoint: Endpoint) -> None:
    """Let an open connection serve as `endpoint` says from now on, after a check of role and term.

    A connection that was made while its node was a standby can write once the node was promoted. Raises one of
    CONNECT_ERRORS, and then it is closed.
    """
    link.endpoint = endpoint
    try:
        await until_term_fits(_TERM_DEADLINE_S)(_check, link)
    except BaseException:
        link.terminate()
        raise


async def _check(link: Link) -> None:
    (row,) = await link.fetch(_CHECK, deadline_s=CONNECT_DEADLINE_S)
    endpoint = link.endpoint
    if endpoint.role is Role.STANDBY:
        if not row["recovering"]:
            raise NotServing(f"{endpoint.name} is no standby any more")
    elif row["recovering"] or row["term"] != str(endpoint.term):
        raise NotServing(f"{endpoint.name} is not the primary of term {endpoint.term} (it shows {row['term']!r})")
