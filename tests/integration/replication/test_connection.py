"""The agent's connection to its own PostgreSQL, dropped in the middle of a statement."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg

from replication.errors import SQL_ERRORS
from tests.nodes import one_node

DROPS = 300


async def test_a_connection_that_is_dropped_at_any_moment_ends_its_statement_with_a_connection_error(
    tmp_path: Path,
) -> None:
    async with one_node(tmp_path) as under_test:
        await under_test.first_start()
        node = under_test.running.node
        ends: set[type[BaseException] | None] = set()
        for turns in range(DROPS):
            connection = await node.connect(database="postgres")
            statement = asyncio.ensure_future(connection.fetch("SELECT $1::int", 1))
            for _ in range(turns):
                await asyncio.sleep(0)
            connection.terminate()
            await asyncio.wait({statement}, timeout=5)
            ends.add(type(statement.exception()) if statement.exception() is not None else None)
        assert all(end is None or issubclass(end, SQL_ERRORS) for end in ends), ends
        assert asyncpg.InterfaceError in ends or asyncpg.ConnectionDoesNotExistError in ends, ends
