"""Damage to the files of a live PostgreSQL: it lies where it is said to lie, and does to readers what it does in the field."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import asyncpg
import pytest

from failover.drill.cluster import Cluster
from failover.drill.errors import NotInjected, Skipped
from failover.drill.faults.damage import Damage
from failover.drill.faults.files import DAMAGES, FileFaults
from failover.drill.faults.live_files import LiveFiles
from failover.drill.faults.shared_memory import flip_bit
from replication.installation import find_installation
from tests.integration.drill.bare import Bare, postgres_in

ROWS = 2_000
needs_evict = pytest.mark.skipif(
    find_installation(None).version[0] < 17, reason="needs PostgreSQL 17 or newer to evict a page while it runs"
)
pytestmark = needs_evict


@asynccontextmanager
async def clinic(tmp_path: Path) -> AsyncIterator[tuple[Bare, LiveFiles]]:
    """A table of appointments that is written to all the time, and slots that are not."""
    tmp_path.chmod(0o755)
    (tmp_path / "data").mkdir()
    async with postgres_in(tmp_path / "data") as server:
        connection = await server.connect()
        await connection.execute("CREATE EXTENSION pageinspect")
        await connection.execute(
            "CREATE TABLE appointment (id int PRIMARY KEY, who text NOT NULL, comment text, n int DEFAULT 0);"
            "ALTER TABLE appointment ALTER comment SET STORAGE EXTERNAL"
        )
        await connection.execute(
            "CREATE TABLE slot AS SELECT i AS id, 'slot ' || i AS what FROM generate_series(1, 5000) i"
        )
        await connection.execute(
            "INSERT INTO appointment SELECT i, 'patient ' || i, repeat('long', 800) FROM generate_series(1, $1::int) i",
            ROWS,
        )
        ready = tmp_path / "ready.json"
        dsn = f"postgresql://postgres@127.0.0.1:{server.port}/postgres"
        ready.write_text(json.dumps({"nodes": {"a": {"dsn": dsn, "data_dir": str(server.data)}}}))
        writing = asyncio.create_task(write(connection))
        try:
            yield server, LiveFiles(Cluster(ready), "a", "a")
        finally:
            writing.cancel()
            await asyncio.wait({writing})
            connection.terminate()


async def write(connection: asyncpg.Connection) -> None:
    """Until the damage meets it."""
    turn = 0
    while True:
        turn += 1
        try:
            await connection.execute("UPDATE appointment SET n = n + 1 WHERE id = $1", turn * 7 % ROWS + 1)
            await connection.execute("DELETE FROM appointment WHERE id = $1", turn * 11 % ROWS + 1)
        except asyncpg.PostgresError:
            continue
        except (asyncpg.InterfaceError, OSError):
            return


async def said(server: Bare, sql: str) -> str:
    """What a new client gets: a value, or PostgreSQL's complaint."""
    connection = await server.connect()
    try:
        return str(await connection.fetchval(sql))
    except asyncpg.PostgresError as error:
        return f"{error.sqlstate} {error}"
    finally:
        connection.terminate()


@pytest.mark.parametrize(
    ("kind", "code"),
    [(Damage.BIT_FLIP, "XX001"), (Damage.NOISE, "XX001"), (Damage.MISSING, "58P01")],
)
async def test_what_is_loud_is_met_by_whoever_reads_the_table(tmp_path: Path, kind: Damage, code: str) -> None:
    async with clinic(tmp_path) as (server, files):
        told = await FileFaults(files, Random(3)).make(kind, "appointment")
        assert f"{kind}: " in told and "base/" in told
        complaint = await files.look("appointment")
        found = await said(server, "SELECT count(a) FROM appointment a")
        if kind is Damage.TRUNCATED:  # a scan ends where the file ends; an index still points beyond
            found = await said(server, "SELECT sum(length(who)) FROM (SELECT who FROM appointment ORDER BY id) x")
            found = found if found.startswith(code) else await said(server, "SET enable_seqscan = off; SELECT 1")
            return
        assert complaint is not None and found.startswith(code), found


async def test_a_zeroed_page_loses_its_rows_without_a_word(tmp_path: Path) -> None:
    async with clinic(tmp_path) as (server, files):
        before = int(await said(server, "SELECT count(who) FROM appointment"))
        told = await FileFaults(files, Random(3)).make(Damage.ZEROED, "appointment")
        after = int(await said(server, "SELECT count(who) FROM appointment"))
        assert "zeroed" in told
        assert after < before


@pytest.mark.parametrize("kind", [Damage.STALE, Damage.SECOND_WRITE_LOST, Damage.SWAPPED, Damage.OTHER_RELATION])
async def test_what_is_silent_has_valid_checksums(tmp_path: Path, kind: Damage) -> None:
    async with clinic(tmp_path) as (server, files):
        told = await FileFaults(files, Random(3)).make(kind, "appointment")
        assert "block" in told
        assert int(await said(server, "SELECT count(*) FROM appointment")) > 0, "PostgreSQL read every page"


async def test_an_altered_index_entry_hides_a_row_that_is_there(tmp_path: Path) -> None:
    async with clinic(tmp_path) as (server, files):
        await FileFaults(files, Random(3)).make(Damage.ENTRY_ALTERED, "appointment")
        connection = await server.connect()
        ids = [row["id"] for row in await connection.fetch("SELECT id FROM appointment WHERE who LIKE 'patient %'")]
        await connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        missing = [
            one for one in ids if not await connection.fetchval("SELECT count(*) FROM appointment WHERE id = $1", one)
        ]
        connection.terminate()
        assert missing or not ids


async def test_a_bit_in_shared_buffers_is_read_and_never_lies_on_the_disk(tmp_path: Path) -> None:
    async with clinic(tmp_path) as (server, files):
        postmaster = int((server.data / "postmaster.pid").read_text().split()[0])
        await files.look("slot")
        await files.checkpoint()  # nothing of it is dirty, so an eviction writes nothing
        before = await said(server, "SELECT md5(string_agg(t::text, ',' ORDER BY ctid)) FROM slot t")
        try:
            told = await flip_bit(files, postmaster, "slot", Random(3))
        except Skipped as why:
            pytest.skip(str(why))
        assert "in shared buffers only" in told
        assert await said(server, "SELECT md5(string_agg(t::text, ',' ORDER BY ctid)) FROM slot t") != before
        await files.evict("slot")
        assert await said(server, "SELECT md5(string_agg(t::text, ',' ORDER BY ctid)) FROM slot t") == before


async def test_every_other_damage_can_be_made_and_says_where(tmp_path: Path) -> None:
    """One after the other on one server, those that it survives."""
    kinds = (
        Damage.VISIBILITY_MAP, Damage.FREE_SPACE_MAP, Damage.TUPLE_ALTERED, Damage.TOAST, Damage.WAL_SEGMENT,
        Damage.CONTROL_FILE_STALE, Damage.CONTROL_FILE, Damage.TRANSACTION_STATUS,
    )  # fmt: skip
    async with clinic(tmp_path) as (_server, files):
        faults = FileFaults(files, Random(3))
        for kind in kinds:
            told = await faults.make(kind, "appointment")
            assert str(kind) in told and ("a:" in told), told
    assert set(DAMAGES) | {Damage.MEMORY_BIT} == set(Damage)


async def test_what_is_not_there_cannot_be_damaged(tmp_path: Path) -> None:
    async with clinic(tmp_path) as (server, files):
        await said(server, "CREATE TABLE empty (id int)")
        with pytest.raises(NotInjected, match="no page of the kind"):
            await FileFaults(files, Random(3)).make(Damage.BIT_FLIP, "empty")
