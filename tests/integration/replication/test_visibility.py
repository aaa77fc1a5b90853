"""A visibility map that lies, on real nodes: found by asking the table about it, and a sound one is never called a liar."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from replication.actions import DropMaps
from replication.model import FaultKind, Place
from replication.page_size import PAGE_BYTES
from replication.scrub.findings import Findings
from replication.scrub.visibility import VisibilityChecks
from tests.nodes import POSTGRES_15, NodeUnderTest, one_node, two_nodes

_EVICT = """
SELECT count(pg_buffercache_evict(bufferid)) FROM pg_buffercache WHERE relfilenode = pg_relation_filenode('appointment')
"""
_NAMED_S = 15.0
_NO_VACUUM = "ALTER TABLE appointment SET (autovacuum_enabled = false)"
_UNSEEN = "SELECT count(*) FROM pg_check_visible('appointment')"


async def filled(node: NodeUnderTest) -> asyncpg.Connection:
    connection = await node.connect()
    for extension in ("pg_buffercache", "pg_visibility", "pageinspect"):
        await connection.execute(f"CREATE EXTENSION IF NOT EXISTS {extension}")
    await connection.execute(_NO_VACUUM)
    await connection.execute("INSERT INTO appointment SELECT i, 'x' FROM generate_series(1, 50) i")
    await vacuum(connection, "VACUUM appointment", until="all_visible")
    await connection.execute("CHECKPOINT")
    return connection


async def vacuum(connection: asyncpg.Connection, command: str, *, until: str) -> None:
    """Again, while a snapshot of the agent's own is older than the rows."""
    async with asyncio.timeout(_NAMED_S):
        await connection.execute(command)
        while not all(page[until] for page in await connection.fetch("SELECT * FROM pg_visibility_map('appointment')")):
            await connection.execute(command)


async def abort_an_insert(connection: asyncpg.Connection) -> None:
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("INSERT INTO appointment VALUES (51, 'x')")
    await transaction.rollback()


async def delete_and_prune(connection: asyncpg.Connection) -> None:
    await connection.execute("DELETE FROM appointment WHERE id = 1")
    await connection.execute("VACUUM (INDEX_CLEANUP off) appointment")


@pytest.mark.parametrize("since", ["UPDATE appointment SET note = 'y' WHERE id = 1", "insert aborted", "dead pointer"])
async def test_a_map_from_the_past_is_named_within_seconds(tmp_path: Path, since: str) -> None:
    async with one_node(tmp_path) as node:
        if node.running.node.installation.version[0] < 17:
            pytest.skip("a page cannot be evicted from shared buffers below PostgreSQL 17")
        await node.first_start()
        connection = await filled(node)
        relation = await connection.fetchval("SELECT pg_relation_filepath('appointment')")
        path = node.settings.data_dir / f"{relation}_vm"
        before = path.read_bytes()[:PAGE_BYTES]
        if since == "insert aborted":
            await abort_an_insert(connection)
        elif since == "dead pointer":
            await delete_and_prune(connection)
        else:
            await connection.execute(since)
        await connection.execute("CHECKPOINT")
        await connection.fetchval(_EVICT)
        assert path.read_bytes()[:PAGE_BYTES] != before
        assert not (await node.report()).faults
        with path.open("r+b") as file:
            file.write(before)
        report = await node.wait(lambda report: report.faults, deadline_s=_NAMED_S)
        (fault,) = report.faults
        assert fault.kind is FaultKind.VM_CORRUPT and fault.is_proof
        assert [(place.path, place.block) for place in fault.places] == [(relation, 0)]
        connection.terminate()


@pytest.mark.skipif(
    not (POSTGRES_15 / "postgres").exists(), reason="no system PostgreSQL 15; later ones compare otherwise"
)
@pytest.mark.postgres15
async def test_rows_that_are_only_newer_than_a_snapshot_of_the_standby_do_not_make_a_sound_map_a_liar(
    tmp_path: Path,
) -> None:
    """pg_visibility compares with the oldest snapshot, which steps back when the standby reports one that it kept to itself."""
    async with two_nodes(
        tmp_path, bindir=POSTGRES_15, scrub_enabled=False, postgres={"max_standby_streaming_delay": "-1"}
    ) as pair:
        await pair.stream()
        reader = await pair.b.connect()
        snapshot = reader.transaction(isolation="repeatable_read")
        await snapshot.start()
        await reader.fetchval("SELECT count(*) FROM appointment")
        primary = await filled(pair.a)
        assert await primary.fetchval(_UNSEEN) == 0
        other = await pair.b.connect()
        await other.execute("ALTER SYSTEM SET hot_standby_feedback = on")
        await other.execute("SELECT pg_reload_conf()")
        async with asyncio.timeout(20):
            while not await primary.fetchval(_UNSEEN):
                await asyncio.sleep(0.1)
        local = pair.a.running.local
        checks = VisibilityChecks(local, Findings(local.memory, lambda _kind: None))
        try:
            assert await checks.rotation.ready()
            while not checks.rotation.has_seen_all_since(0):
                await checks.rotation.look()
            assert await primary.fetchval(_UNSEEN), "the snapshot has gone meanwhile"
            assert not (await pair.a.report()).faults
        finally:
            checks.rotation.close()
            for connection in (reader, primary, other):
                connection.terminate()


async def test_a_lie_that_wal_has_copied_to_the_standby_is_thrown_away_on_both(tmp_path: Path) -> None:
    """A map's page goes into WAL as a whole when one bit of it is set, and takes the lie along."""
    async with two_nodes(tmp_path, scrub_enabled=False) as pair:
        if pair.a.running.node.installation.version[0] < 17:
            pytest.skip("a page cannot be evicted from shared buffers below PostgreSQL 17")
        await pair.stream()
        primary, standby = await filled(pair.a), await pair.b.connect()
        await primary.execute("INSERT INTO appointment SELECT i, repeat('z', 400) FROM generate_series(51, 2000) i")
        await vacuum(primary, "VACUUM (FREEZE) appointment", until="all_frozen")  # passed over from now on
        await primary.execute("CHECKPOINT")
        await primary.fetchval(_EVICT)
        relation = await primary.fetchval("SELECT pg_relation_filepath('appointment')")
        path = pair.a.settings.data_dir / f"{relation}_vm"
        before = path.read_bytes()[:PAGE_BYTES]
        await primary.execute("DELETE FROM appointment WHERE id = 1")
        await primary.execute("CHECKPOINT")
        await primary.fetchval(_EVICT)
        with path.open("r+b") as file:
            file.write(before)
        await primary.execute("INSERT INTO appointment SELECT i, repeat('z', 400) FROM generate_series(2001, 2100) i")
        await primary.execute("VACUUM appointment")
        lsn = await primary.fetchval("SELECT pg_current_wal_flush_lsn()")
        async with asyncio.timeout(20):
            while not await standby.fetchval("SELECT pg_last_wal_replay_lsn() >= $1", lsn):
                await asyncio.sleep(0.02)
        lies = [await one.fetchval(_UNSEEN) for one in (primary, standby)]
        assert all(lies), lies
        place, incarnation = Place(path=relation, block=0), (await pair.a.report()).incarnation or ""
        async with primary.transaction():
            await primary.execute("LOCK TABLE appointment IN ACCESS SHARE MODE")  # as a long question holds it
            refused = await pair.a.act(DropMaps((place,), incarnation), ok=False)
            assert "lock timeout" in refused.sentence
        assert await primary.fetchval(_UNSEEN)
        await pair.a.act(DropMaps((place,), incarnation))
        assert await primary.fetchval(_UNSEEN) == 0
        async with asyncio.timeout(20):
            while await standby.fetchval(_UNSEEN):
                await asyncio.sleep(0.02)
        for connection in (primary, standby):
            connection.terminate()
