"""Writers on a real node, for tests that kill it in the middle of something."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.nodes import NodeUnderTest

_INSERT = "INSERT INTO appointment VALUES ($1, repeat('x', 200)) ON CONFLICT DO NOTHING"
_numbers = itertools.count(1_000_000)


async def insert(node: NodeUnderTest, rows: int, *, width: int = 200) -> None:
    """So many new rows in one transaction."""
    connection = await node.connect()
    first = next(_numbers) * 1_000_000
    sql = "INSERT INTO appointment SELECT $1::bigint + i, repeat('y', $3) FROM generate_series(1, $2::int) i"
    await connection.execute(sql, first, rows, width)
    await connection.close()


@asynccontextmanager
async def writing(node: NodeUnderTest, *, writers: int = 3) -> AsyncIterator[None]:
    """Writers that commit single rows as fast as they can until the block ends, or the node dies."""
    connections = [await node.connect() for _ in range(writers)]

    async def write(connection: asyncpg.Connection) -> None:
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            while True:
                await connection.execute(_INSERT, next(_numbers))

    tasks = [asyncio.ensure_future(write(connection)) for connection in connections]
    try:
        yield
    finally:
        for connection in connections:
            connection.terminate()
        await asyncio.wait(tasks, timeout=5)
