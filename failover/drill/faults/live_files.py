"""The files of a running node, as an administrator with the disk in hand: found by SQL, read, written past PostgreSQL.

A damaged page counts only while nothing else is in shared buffers, and stays only while nothing there is dirty: so it is
evicted before and after (an eviction writes what is dirty).
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import asyncpg

from failover.drill.cluster import Cluster
from failover.drill.errors import ClusterAway, NotInjected, Skipped
from replication.page_size import PAGE_BYTES

_EVICT = """
SELECT count(*) FROM (SELECT ltrim(pg_buffercache_evict(bufferid)::text, '(') AS done FROM pg_buffercache
                      WHERE relfilenode = pg_relation_filenode($1::regclass) OFFSET 0) one
WHERE done NOT LIKE 't%'
"""
"""How many stayed, which somebody holds just now. On 17 it gives a boolean, on 18 a row that begins with one."""
_HAS = "SELECT to_regproc('pg_buffercache_evict') IS NOT NULL"
_REDO = "SELECT (redo_lsn - '0/0')::bigint FROM pg_control_checkpoint()"
_OLDEST_ACTIVE = """
SELECT coalesce(nullif(oldest_active_xid::text::bigint, 0), split_part(next_xid, ':', 2)::bigint)
FROM pg_control_checkpoint()
"""
_EXTENSION_S = 10.0
_EVICTED_S = 5.0
_HELD_S = 0.002
_SETTLED_S = 15.0
_LOOK_S = 10.0
_LOOK_EVERY_S = 0.05


class LiveFiles:
    """One node. Raises Skipped, NotInjected, ClusterAway."""

    def __init__(self, cluster: Cluster, node: str, primary: str) -> None:
        self.node = node
        self._cluster = cluster
        self._primary = primary
        self.data_dir = Path(cluster.ready["nodes"][node]["data_dir"])

    async def path(self, relation: str, fork: str = "") -> Path:
        """A relation's file. `fork`: `_vm`, `_fsm` or nothing."""
        return self.data_dir / ((await self.value("SELECT pg_relation_filepath($1)", relation)) + fork)

    async def value(self, sql: str, *args: object) -> str:
        """One value, as text. Raises NotInjected when there is none."""
        async with self._cluster.sql(self.node) as connection:
            found = await connection.fetchval(sql, *args)
        if found is None:
            raise NotInjected(f"node {self.node} has nothing of the kind: {sql} {args}")
        return str(found)

    async def on_primary(self, sql: str) -> None:
        """A command for the primary, such as VACUUM."""
        async with self._cluster.sql(self._primary) as connection:
            await connection.execute(sql)

    async def checkpoint(self) -> None:
        """On the primary, and a restartpoint on a standby once it has come there."""
        for node in dict.fromkeys((self._primary, self.node)):
            async with self._cluster.sql(node) as connection:
                await connection.execute("CHECKPOINT")

    async def settle(self) -> int:
        """A checkpoint on every node; up to which transaction all of them have ended and are on every disk for good."""
        async with self._cluster.sql(self._primary) as connection:
            await connection.execute("CHECKPOINT")
            redo = await connection.fetchval(_REDO)
        try:
            async with asyncio.timeout(_SETTLED_S):
                return min([await self._settled(node, redo) for node in sorted(self._cluster.ready["nodes"])])
        except TimeoutError as error:
            raise NotInjected(f"not every node has made a checkpoint within {_SETTLED_S:.0f} s") from error

    async def _settled(self, node: str, redo: int) -> int:
        async with self._cluster.sql(node) as connection:
            while await connection.fetchval(_REDO) < redo:
                await asyncio.sleep(_LOOK_EVERY_S)
                await connection.execute("CHECKPOINT")
            return int(await connection.fetchval(_OLDEST_ACTIVE))

    async def can_evict(self) -> None:
        """Make it possible. Raises Skipped where PostgreSQL cannot."""
        async with self._cluster.sql(self._primary) as connection:
            if connection.get_server_version().major < 17:
                raise Skipped("needs PostgreSQL 17 or newer: an older one reads no page again while it runs")
            await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_buffercache")
        async with asyncio.timeout(_EXTENSION_S), self._cluster.sql(self.node) as connection:
            while not await connection.fetchval(_HAS):
                await asyncio.sleep(_LOOK_EVERY_S)

    async def evict(self, relation: str) -> None:
        """All of it out of shared buffers, what is dirty written first, whatever is held asked for again. Raises ClusterAway,
        NotInjected."""
        until_s = time.monotonic() + _EVICTED_S
        async with self._cluster.sql(self.node) as connection:
            while await connection.fetchval(_EVICT, relation):
                if time.monotonic() > until_s:
                    raise NotInjected(f"somebody holds pages of {relation} in shared buffers all the time")
                await asyncio.sleep(_HELD_S)

    async def look(self, relation: str) -> str | None:
        """Read a whole table, as any report would; what PostgreSQL says against it."""
        try:
            async with self._cluster.sql(self.node) as connection, asyncio.timeout(_LOOK_S):
                await connection.execute("SET enable_indexonlyscan = off; SET enable_indexscan = off")
                await connection.fetchval(f"SELECT count(t) FROM {relation} t")  # noqa: S608  a name of ours
        except (ClusterAway, asyncpg.PostgresError, TimeoutError) as error:
            return str(error)
        return None


def read(path: Path) -> bytes:
    """A whole file. Raises NotInjected."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotInjected(f"{path.name} cannot be read: {error.strerror}") from error


def write(path: Path, offset: int, data: bytes) -> None:
    """Over what is there, and onto the disk. Raises NotInjected."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, data, offset)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise NotInjected(f"{path.name} cannot be written: {error.strerror}") from error


def read_page(path: Path, block: int) -> bytes:
    """One page as it is now. Raises NotInjected."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(block * PAGE_BYTES)
            return file.read(PAGE_BYTES)
    except OSError as error:
        raise NotInjected(f"{path.name} cannot be read: {error.strerror}") from error
