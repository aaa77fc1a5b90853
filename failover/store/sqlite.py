"""The store of one machine: an SQLite file with synchronous=FULL, and a file lock as the leader lease.

All of it runs in one thread of its own, so nothing blocks the event loop and no connection is shared. The lock is
released by the kernel when the process dies.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from failover.core.model import IncidentEvent, State
from failover.errors import LeaseHeld, StateConflict, StoreError
from failover.store.base import JOURNAL_ENTRIES_MAX, JournalEntry

T = TypeVar("T")

_DEADLINE_S = 10.0
_BUSY_S = 5.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS state (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS journal (revision INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS incident_event (
    id INTEGER PRIMARY KEY, incident TEXT NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS incident_event_incident ON incident_event (incident, id);
"""


class SqliteStore:
    """A `Store` in one file. Open it with `await SqliteStore.open(path)`: it holds the leader lease until `close`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._lock_descriptor: int | None = None
        self._connection: sqlite3.Connection | None = None

    @classmethod
    async def open(cls, path: Path) -> SqliteStore:
        """Take the leader lease and open the file, 0600. Raises LeaseHeld or StoreError."""
        store = cls(path)
        try:
            await store._run(store._open)
        except StoreError:
            await store.close()
            raise
        return store

    async def load(self) -> State | None:
        """See Store."""
        return await self._run(self._load)

    async def save(
        self, state: State, expected_revision: int, entry: JournalEntry, lines: tuple[IncidentEvent, ...] = ()
    ) -> None:
        """See Store."""
        await self._run(lambda: self._save(state, expected_revision, entry, lines))

    async def append(self, lines: tuple[IncidentEvent, ...]) -> None:
        """See Store."""
        await self._run(lambda: self._append(lines))

    async def journal(self, after_revision: int = 0) -> list[JournalEntry]:
        """See Store."""
        query = "SELECT body FROM journal WHERE revision > ? ORDER BY revision"
        return await self._run(lambda: self._decoded(query, (after_revision,), JournalEntry))

    async def incident_events(self, incident: str | None = None) -> list[IncidentEvent]:
        """See Store."""
        if incident is None:
            return await self._run(
                lambda: self._decoded("SELECT body FROM incident_event ORDER BY id", (), IncidentEvent)
            )
        query = "SELECT body FROM incident_event WHERE incident = ? ORDER BY id"
        return await self._run(lambda: self._decoded(query, (incident,), IncidentEvent))

    async def close(self) -> None:
        """See Store."""
        await self._run(self._close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(_DEADLINE_S):
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except TimeoutError as error:
            raise StoreError(
                f"the store {self._path} did not answer within {_DEADLINE_S:.0f} s; look at its disk"
            ) from error
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"the store {self._path} failed: {error}; look at its disk and its rights") from error

    # --- in the store's thread ---

    def _open(self) -> None:
        self._lock_descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LeaseHeld(
                f"another controller holds the lease of {self._path}; it is released when that one ends"
            ) from error
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None)
        self._connection = connection
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(_SCHEMA)

    @property
    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"the store {self._path} is closed")
        return self._connection

    def _load(self) -> State | None:
        row = self._open_connection.execute("SELECT body FROM state").fetchone()
        return msgspec.json.decode(row[0], type=State) if row is not None else None

    def _save(
        self, state: State, expected_revision: int, entry: JournalEntry, lines: tuple[IncidentEvent, ...]
    ) -> None:
        connection = self._open_connection
        body = msgspec.json.encode(state)
        connection.execute("BEGIN IMMEDIATE")
        try:
            stored = connection.execute("SELECT revision FROM state").fetchone()
            revision = stored[0] if stored is not None else 0
            if revision != expected_revision or state.revision <= expected_revision:
                raise StateConflict(
                    f"{self._path} holds revision {revision}; {state.revision} was to replace {expected_revision}"
                )
            connection.execute("REPLACE INTO state (one, revision, body) VALUES (1, ?, ?)", (state.revision, body))
            connection.execute("INSERT INTO journal VALUES (?, ?)", (state.revision, msgspec.json.encode(entry)))
            self._append(lines)
            connection.execute("DELETE FROM journal WHERE revision <= ?", (state.revision - JOURNAL_ENTRIES_MAX,))
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _append(self, lines: tuple[IncidentEvent, ...]) -> None:
        self._open_connection.executemany(
            "INSERT INTO incident_event (incident, body) VALUES (?, ?)",
            [(line.incident, msgspec.json.encode(line)) for line in lines],
        )

    def _decoded(self, query: str, parameters: tuple[object, ...], type_: type[T]) -> list[T]:
        rows = self._open_connection.execute(query, parameters).fetchall()
        return [msgspec.json.decode(row[0], type=type_) for row in rows]

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
            self._lock_descriptor = None
