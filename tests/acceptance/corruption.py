"""Damage on a node's disk, made by an outsider: noise over a page that PostgreSQL must read again."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import asyncpg
from tenacity import retry, retry_if_result, stop_after_attempt

from tests.acceptance.cluster import Cluster

PAGE_BYTES = 8192
_EVICT_SINCE = 170_000
_EXTENSION = "CREATE EXTENSION IF NOT EXISTS pg_buffercache"
_EVICT = """
SELECT pg_buffercache_evict(bufferid) FROM pg_buffercache
WHERE relfilenode = pg_relation_filenode($1::regclass) AND relforknumber = 0 AND relblocknumber = $2
  AND reldatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_CACHED = """
SELECT count(*) FROM pg_buffercache
WHERE relfilenode = pg_relation_filenode($1::regclass) AND relforknumber = 0 AND relblocknumber = $2
  AND reldatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_SOMEBODY_THERE = "SELECT id::text FROM appointment WHERE ctid >= $1::text::tid AND ctid < $2::text::tid AND status = 'booked' LIMIT 1"


async def can_evict(cluster: Cluster, node: str) -> bool:
    """PostgreSQL 17 and newer can be made to forget one page."""
    async with cluster.sql(node) as connection:
        return int(await connection.fetchval("SHOW server_version_num")) >= _EVICT_SINCE


async def somebody_in(cluster: Cluster, node: str, block: int) -> str:
    """The id of a booked appointment whose row lies in this block of the table `appointment`."""
    async with cluster.sql(node) as connection:
        found = await connection.fetchval(_SOMEBODY_THERE, f"({block},0)", f"({block + 1},0)")
    assert found is not None, f"nobody is booked in block {block}"
    return str(found)


async def appointment_file(cluster: Cluster, node: str) -> Path:
    """The file of the table `appointment` on this node's disk."""
    async with cluster.sql(node) as connection:
        relative = await connection.fetchval("SELECT pg_relation_filepath('appointment')")
    return Path(cluster.ready.nodes[node].data_dir) / str(relative)


async def noise_under_an_appointment(cluster: Cluster, node: str, *, block: int = 0) -> str:
    """8 KB of noise over a page of the table `appointment` on this node's disk, out of its shared buffers: the id of a
    booked appointment that lies there."""
    async with cluster.sql(node) as connection:
        await connection.execute(_EXTENSION)
        await connection.execute("CHECKPOINT")
        found = await somebody_in(cluster, node, block)
        await _damage(connection, await appointment_file(cluster, node), block)
    return found


@retry(retry=retry_if_result(lambda gone: not gone), stop=stop_after_attempt(50), reraise=True)
async def _damage(connection: asyncpg.Connection, path: Path, block: int) -> bool:
    """Evict (which writes a dirty page back), overwrite, and see that nobody had read it in between."""
    with contextlib.suppress(asyncpg.PostgresError):
        await connection.fetch(_EVICT, "appointment", block)
    await asyncio.to_thread(write_noise, path, block)
    return int(await connection.fetchval(_CACHED, "appointment", block)) == 0


def write_noise(path: Path, block: int) -> None:
    """Noise over one page, on the disk when this returns."""
    with path.open("r+b") as file:
        file.seek(block * PAGE_BYTES)
        file.write(os.urandom(PAGE_BYTES))
        file.flush()
        os.fsync(file.fileno())
