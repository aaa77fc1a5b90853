"""A connection kept ready on a standby: a promotion must not spend its first milliseconds on connecting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import asyncpg
import structlog

from replication.errors import SQL_ERRORS
from replication.node import Node

_log = structlog.get_logger()


class SpareConnection:
    """Connects while `wanted` says so, and drops the connection when it no longer does.

    `warm_up` are the statements that it will have to run: they are parsed here, so that the backend's catalog caches
    are full.
    """

    def __init__(self, node: Node, wanted: Callable[[], bool], warm_up: Sequence[str]) -> None:
        self._node = node
        self._wanted = wanted
        self._warm_up = warm_up
        self._connection: asyncpg.Connection | None = None

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                if not self._wanted():
                    self._drop()
                elif self._connection is None or self._connection.is_closed():
                    await self._connect()
                await asyncio.sleep(self._node.settings.probe_interval_ms / 1000)
        finally:
            self._drop()

    def take(self) -> asyncpg.Connection | None:
        """The connection, which now belongs to the caller; None when there is none."""
        connection, self._connection = self._connection, None
        return connection if connection is not None and not connection.is_closed() else None

    async def _connect(self) -> None:
        try:
            connection = await self._node.connect(application_name="locum_promote")
            for statement in self._warm_up:
                await connection.prepare(statement)
        except SQL_ERRORS as error:
            _log.debug("agent.no_spare_connection", error=repr(error))
            return
        self._connection = connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
