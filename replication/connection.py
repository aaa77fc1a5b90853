"""A connection of the agent whose end is always one of SQL_ERRORS.

asyncpg forgets its protocol when a connection is dropped, and a statement that is then between its Parse and its Bind meets
None: an AttributeError, which no caller can tell from a mistake of ours (asyncpg/connection.py:_do_execute).
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

import asyncpg

T = TypeVar("T")


class AgentConnection(asyncpg.Connection):  # type: ignore[misc]
    """What asyncpg.Connection is; a statement that loses its connection halfway raises asyncpg.InterfaceError."""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        return await self._whole(super().execute(query, *args, timeout=timeout))

    async def executemany(self, command: str, args: Any, *, timeout: float | None = None) -> None:
        await self._whole(super().executemany(command, args, timeout=timeout))

    async def fetch(self, query: str, *args: Any, **settings: Any) -> list[asyncpg.Record]:
        return await self._whole(super().fetch(query, *args, **settings))

    async def fetchval(self, query: str, *args: Any, **settings: Any) -> Any:
        return await self._whole(super().fetchval(query, *args, **settings))

    async def fetchrow(self, query: str, *args: Any, **settings: Any) -> asyncpg.Record | None:
        return await self._whole(super().fetchrow(query, *args, **settings))

    async def _whole(self, statement: Awaitable[T]) -> T:
        try:
            return await statement
        except AttributeError as error:
            if not self.is_closed():
                raise
            raise asyncpg.InterfaceError("the connection was dropped between two steps of a statement") from error
