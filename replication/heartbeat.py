"""The heartbeat of an open primary: a small synchronous commit, so that WAL flows when nobody books.

It is also the proof that the write barrier is alive: `returned_started_ms` is when the last one that came back began
(the node lease builds on it).
"""

from __future__ import annotations

import asyncio
import contextlib

import asyncpg
import structlog

from replication.errors import SQL_ERRORS
from replication.memory import Memory, clock_ms
from replication.model import Postmaster, Role, Stage
from replication.state_dir import StateDir
from replication.supervisor import Supervisor

_log = structlog.get_logger()

HEARTBEAT_NAME = "locum_heartbeat"
_BEAT = "SELECT pg_logical_emit_message(true, 'locum.heartbeat', '')"


class Heartbeat:
    """One connection of its own, one commit at a time; none is ever cancelled (replication/sql_write.py says why)."""

    def __init__(self, memory: Memory, store: StateDir, supervisor: Supervisor) -> None:
        self.returned_started_ms: int | None = None
        self._took_ms: int | None = None
        self._began_ms: int | None = None
        self._memory = memory
        self._store = store
        self._supervisor = supervisor
        self._connection: asyncpg.Connection | None = None

    def latency_ms(self) -> int | None:
        """How long the last commit took, or the one that is under way has taken so far; None on a standby."""
        if self._connection is None:
            return None
        running_ms = clock_ms() - self._began_ms if self._began_ms is not None else 0
        return max(running_ms, self._took_ms or 0)

    async def run(self) -> None:
        """Until cancelled; then the connection is dropped without a cancel request."""
        interval_s = self._memory.node.settings.heartbeat_ms / 1000
        try:
            while True:
                if self._due():
                    await self._beat()
                else:
                    self._drop()
                await asyncio.sleep(interval_s)
        finally:
            self._drop()

    def _due(self) -> bool:
        facts = self._memory.sql.facts
        primary = self._store.state.configured_role is Role.PRIMARY and self._store.state.stage is Stage.OPEN
        running = self._supervisor.postmaster is Postmaster.RUNNING
        return primary and running and facts is not None and not facts.in_recovery

    async def _beat(self) -> None:
        began_ms = self._began_ms = clock_ms()
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._memory.node.connect(application_name=HEARTBEAT_NAME)
            beat = asyncio.ensure_future(self._connection.fetchval(_BEAT))
            try:
                await asyncio.shield(beat)
            except asyncio.CancelledError:
                self._drop()
                with contextlib.suppress(*SQL_ERRORS):
                    await beat
                raise
        except SQL_ERRORS as error:
            _log.info("agent.heartbeat_failed", error=repr(error))
            self._drop()
            return
        finally:
            self._began_ms = None
        self._took_ms = clock_ms() - began_ms
        self.returned_started_ms = began_ms

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
