"""Pausing a standby's replay for the growth proof: always lifted again, by itself after a second at the latest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from replication.errors import ActionFailed
from replication.local_node import LocalNode
from replication.retries import until

_log = structlog.get_logger()

_PAUSED_POLL_MS = 2
_STATE = "SELECT pg_get_wal_replay_pause_state() = 'paused'"


class ReplayPause:
    """One pause at a time; a new one starts the clock again."""

    def __init__(
        self, local: LocalNode, run_soon: Callable[[str, Callable[[], Coroutine[Any, Any, None]]], None]
    ) -> None:
        self._local = local
        self._run_soon = run_soon
        self._number = 0

    async def pause(self) -> None:
        """Ask for the pause and return when replay stands. Raises ActionFailed (not a standby, not paused in time)."""
        deadline_ms = self._local.node.settings.replay_pause_max_ms
        self._number += 1
        number = self._number
        self._local.memory.replay_paused_by_probe = True
        self._run_soon("lift_replay_pause", lambda: self._lift(number, deadline_ms))
        async with self._local.connection() as connection:
            await connection.execute("SELECT pg_wal_replay_pause()")

            async def paused() -> bool:
                return bool(await connection.fetchval(_STATE))

            await until(paused, every_ms=_PAUSED_POLL_MS, deadline_ms=deadline_ms, sentence="replay did not pause")

    async def resume(self) -> None:
        """Lift any pause; nothing happens on a primary or a node that is down."""
        self._number += 1
        if self._local.supervisor.running:
            async with self._local.connection() as connection:
                if await connection.fetchval("SELECT pg_is_in_recovery()"):
                    await connection.execute("SELECT pg_wal_replay_resume()")
        self._local.memory.replay_paused_by_probe = False

    async def _lift(self, number: int, after_ms: int) -> None:
        await asyncio.sleep(after_ms / 1000)
        if number != self._number:
            return
        _log.warning("agent.replay_pause_lifted", after_ms=after_ms)
        try:
            await self.resume()
        except ActionFailed as error:
            _log.error("agent.replay_resume_failed", sentence=error.sentence)
