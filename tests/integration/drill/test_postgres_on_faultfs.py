"""PostgreSQL on the faulty disk: it works there, keeps what it synced, and meets the faults that were asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from failover.drill.faultfs.spec import Fault, Files, Kind, Op
from tests.integration.drill.bare import Bare, postgres_in
from tests.integration.drill.mounts import mounted, needs_fuse

pytestmark = needs_fuse
LOAD_S = 6.0
GONE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


async def insert_for(server: Bare, seconds: float, clients: int = 4) -> set[int]:
    """Numbers whose insert was acknowledged."""
    done: set[int] = set()
    until = asyncio.get_running_loop().time() + seconds

    async def client(number: int) -> None:
        connection = await server.connect()
        turn = 0
        while asyncio.get_running_loop().time() < until:
            value = number * 1_000_000 + turn
            await connection.execute("INSERT INTO t VALUES ($1, repeat('x', 200))", value)
            done.add(value)
            if turn % 7 == 0:
                await connection.execute("UPDATE t SET filler = repeat('y', 150) WHERE id = $1", value)
            turn += 1
        await connection.close()

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
    return done


async def table(server: Bare) -> None:
    connection = await server.connect()
    await connection.execute("CREATE TABLE t (id bigint PRIMARY KEY, filler text)")
    await connection.close()


async def rows(server: Bare) -> set[int]:
    connection = await server.connect()
    found = {row["id"] for row in await connection.fetch("SELECT id FROM t")}
    await connection.close()
    return found


async def test_a_load_with_checkpoints_leaves_every_checksum_right(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with mounted(tmp_path) as disk:
        async with postgres_in(disk.path, checkpoint_timeout="30s", max_wal_size="32MB") as server:
            await table(server)
            done = await insert_for(server, LOAD_S)
            assert await rows(server) == done
            await asyncio.to_thread(server.stop)
            said = await asyncio.to_thread(server.tool, "pg_checksums", "--check", "-D", str(server.data))
            assert "Bad checksums:  0" in said


async def test_a_machine_that_loses_power_keeps_every_acknowledged_commit(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with mounted(tmp_path) as disk:
        async with postgres_in(disk.path, max_wal_size="32MB") as server:
            await table(server)
            done = await insert_for(server, 2.0)
            await asyncio.to_thread(server.kill)
            lost = disk.client.lose_unsynced()
            assert lost["blocks"] > 0, "nothing was at stake"
            await server.start()
            assert await rows(server) == done


async def test_a_commit_that_was_never_synced_is_lost_with_the_power(tmp_path: Path) -> None:
    """The counterpart: what makes the loss real is the disk, not PostgreSQL."""
    tmp_path.chmod(0o755)
    with mounted(tmp_path) as disk:
        async with postgres_in(disk.path, synchronous_commit="off", wal_writer_delay="10s") as server:
            await table(server)
            done = await insert_for(server, 1.0, clients=1)
            await asyncio.to_thread(server.kill)
            disk.client.lose_unsynced()
            await server.start()
            found = await rows(server)
            assert found < done


async def test_a_read_error_is_met_once_the_page_is_read_from_disk(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with mounted(tmp_path) as disk:
        async with postgres_in(disk.path) as server:
            await table(server)
            await insert_for(server, 0.5, clients=1)
            connection = await server.connect()
            path = await connection.fetchval("SELECT pg_relation_filepath('t')")
            await connection.execute("CHECKPOINT")
            disk.client.arm(Fault(kind=Kind.EIO, op=Op.READ, files=Files.RELATION, path=path))
            assert await connection.fetchval("SELECT count(*) FROM t") > 0, "it lies in shared buffers"
            assert disk.client.fired() == [], "nothing has struck yet, so nothing was injected"
            await connection.close()
            await asyncio.to_thread(server.stop)
            await server.start()
            connection = await server.connect()
            with pytest.raises(asyncpg.PostgresIOError):
                await connection.fetchval("SELECT count(*) FROM t")
            assert disk.client.fired()[0]["path"] == path
            await connection.close()


async def test_an_fsync_error_on_wal_ends_postgres(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with mounted(tmp_path) as disk:
        async with postgres_in(disk.path) as server:
            await table(server)
            done = await insert_for(server, 0.5, clients=1)
            number = disk.client.arm(Fault(kind=Kind.EIO, op=Op.FSYNC, files=Files.WAL))
            connection = await server.connect()
            with pytest.raises(GONE):
                await connection.execute("INSERT INTO t VALUES (-1, '')")
            connection.terminate()
            disk.client.disarm(number)
            await asyncio.to_thread(server.kill)
            await server.start()
            assert await rows(server) - {-1} == done
