"""A storm of everything that PostgreSQL does to relations and pages, lawful all of it: no check may find anything in it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.nodes import NodeUnderTest, Pair

CREATE = """
CREATE TABLE IF NOT EXISTS storm (id bigserial PRIMARY KEY, k int, word text, span int4range, spot point, body text);
CREATE INDEX IF NOT EXISTS storm_hash ON storm USING hash (k);
CREATE INDEX IF NOT EXISTS storm_gin ON storm USING gin (string_to_array(word, ' '));
CREATE INDEX IF NOT EXISTS storm_gist ON storm USING gist (span);
CREATE INDEX IF NOT EXISTS storm_spgist ON storm USING spgist (spot);
CREATE INDEX IF NOT EXISTS storm_brin ON storm USING brin (id);
"""
_FILL = """
INSERT INTO storm (k, word, span, spot, body)
SELECT (random() * 1000)::int, md5(random()::text) || ' ' || (i % 97), int4range(i, i + 5), point(random(), random()),
       repeat(md5(random()::text), 3 + (random() * 80)::int)
FROM generate_series(1, 3000) i
"""
STEPS: tuple[str, ...] = (
    _FILL,
    "UPDATE storm SET k = k + 1 WHERE id % 7 = 0",
    "DELETE FROM storm WHERE id % 3 = 0",
    "VACUUM storm",
    "REINDEX INDEX CONCURRENTLY storm_gin",
    "SELECT count(*) FROM storm",
    "VACUUM FREEZE storm",
    "DELETE FROM storm WHERE id > (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY id) FROM storm)",
    "VACUUM (TRUNCATE) storm",
    _FILL,
    "CLUSTER storm USING storm_pkey",
    "VACUUM FULL storm",
    "CREATE UNLOGGED TABLE IF NOT EXISTS storm_unlogged AS SELECT * FROM storm",
    "CREATE INDEX ON storm_unlogged USING gist (span)",
    "ALTER TABLE storm_unlogged SET LOGGED",
    "UPDATE storm_unlogged SET k = 0 WHERE k % 2 = 0",
    "ALTER TABLE storm_unlogged SET UNLOGGED",
    "DROP TABLE storm_unlogged",
    "CREATE TEMPORARY TABLE storm_temp AS SELECT * FROM storm",
    "DROP TABLE storm_temp",
    "CREATE DATABASE storm_log STRATEGY wal_log",
    "DROP DATABASE storm_log",
    "CREATE DATABASE storm_copy STRATEGY file_copy",
    "DROP DATABASE storm_copy",
    "REINDEX TABLE storm",
    "SELECT brin_summarize_new_values('storm_brin')",
    "DELETE FROM storm",
    "VACUUM storm",
    _FILL,
    "TRUNCATE storm",
    _FILL,
    "ALTER TABLE storm ADD COLUMN extra int DEFAULT 5",
    "ALTER TABLE storm ALTER COLUMN extra TYPE bigint",
    "ALTER TABLE storm DROP COLUMN extra",
)
_BOOK = "INSERT INTO appointment VALUES ($1, repeat('x', 200)) ON CONFLICT (id) DO UPDATE SET note = repeat('y', 150)"
_BETWEEN_S = 1.0
_GONE: tuple[type[Exception], ...] = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


async def _ddl(node: NodeUnderTest, rounds: list[int], pause_s: float) -> None:
    connection = await node.connect()
    await connection.execute(CREATE)
    while True:
        for step in STEPS:
            with contextlib.suppress(asyncpg.DeadlockDetectedError, asyncpg.ObjectInUseError):
                await connection.execute(step)
            await asyncio.sleep(pause_s)
        rounds[0] += 1


async def _book(node: NodeUnderTest, number: int) -> None:
    connection = await node.connect()
    turn = 0
    while True:
        turn += 1
        await connection.execute(_BOOK, (turn * 7919 + number) % 20_000)


async def _read(node: NodeUnderTest) -> None:
    """Full reads side by side set hint bits side by side."""
    connection = await node.connect()
    while True:
        await connection.fetchval("SELECT count(*) FROM appointment")
        await asyncio.sleep(0.2)


async def _checkpoints(pair: Pair) -> None:
    """On the primary, then a restartpoint on the standby, all the time."""
    connections = [await node.connect() for node in (pair.a, pair.b)]
    while True:
        for connection in connections:
            await connection.execute("CHECKPOINT")
            await asyncio.sleep(_BETWEEN_S)


@asynccontextmanager
async def storm(pair: Pair, *, writers: int = 2, pause_s: float = 0.0) -> AsyncIterator[list[int]]:
    """It rages until the block ends, with a pause after each step of DDL; the list holds how many rounds of DDL it has made.

    Raises what broke one of its parts.
    """
    rounds = [0]
    parts = [
        asyncio.ensure_future(part)
        for part in (
            _ddl(pair.a, rounds, pause_s),
            *[_book(pair.a, number) for number in range(writers)],
            _read(pair.a),
            _read(pair.a),
            _checkpoints(pair),
        )
    ]
    try:
        yield rounds
        broken = [part.exception() for part in parts if part.done()]
        assert not broken, broken
    finally:
        for part in parts:
            part.cancel()
        await asyncio.wait(parts)
