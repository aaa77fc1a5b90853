"""After a crash: a page that belongs elsewhere is known for what it is, by the files and WAL of a PostgreSQL that says nothing any more."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from failover.drill.faults.damage import page_of, resealed
from replication.installation import find_installation
from replication.model import WAL_SEGMENT_BYTES, FaultKind, Postmaster
from replication.page import lsn_of
from replication.scrub.ledger_service import LedgerService
from replication.wal_files import segment_name
from tests.integration.replication.test_pages_against_wal import _IDLE, Table, change, finding, tables

pytestmark = pytest.mark.skipif(
    find_installation(None).version[0] < 17, reason="needs PostgreSQL 17 or newer to evict a page while it runs"
)


async def other_table(a: Table) -> Path:
    await a.connection.execute("CREATE TABLE other AS SELECT i, repeat('y', 150) AS t FROM generate_series(1, 2000) i")
    await a.connection.execute("CHECKPOINT")
    return a.node.settings.data_dir / str(await a.connection.fetchval("SELECT pg_relation_filepath('other')"))


async def dies_and_is_named(a: Table, block: int) -> None:
    os.kill(await a.connection.fetchval("SELECT pg_backend_pid()"), signal.SIGSEGV)
    fault = await finding(a.node, lambda one: one.kind is FaultKind.MISDIRECTED_WRITE)
    assert fault.is_proof
    assert [place.block for place in fault.places] == [block]


@pytest.mark.parametrize("has_earlier_wal", [True, False])
@pytest.mark.parametrize("not_written_yet", [0, 20])
async def test_a_crash_over_a_page_of_another_table_is_known_for_what_it_is_although_nobody_can_be_asked(
    tmp_path: Path, has_earlier_wal: bool, not_written_yet: int
) -> None:
    """PostgreSQL dies of a signal and says nothing of the page; its files and its WAL do, also where WAL begins right there, and
    among many pages that are older on the disk because they were only not written yet."""
    async with tables(tmp_path, **_IDLE) as (_, a, _b):
        other = await other_table(a)
        await change(a, 9, "newer")
        await a.flush()
        lsn = await a.connection.fetchval("SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint")
        await a.node.wait(lambda report: report.ledger is not None and report.ledger.read_to_lsn >= lsn - 8192)
        page = page_of(await asyncio.to_thread(other.read_bytes), 9)
        await a.plant(9, page)
        for block in range(20, 20 + not_written_yet):
            await change(a, block, "in shared buffers only")
        lsn = await a.connection.fetchval("SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint")
        await a.node.wait(lambda report: report.ledger is not None and report.ledger.read_to_lsn >= lsn - 8192)
        if not has_earlier_wal:
            first = segment_name(1, (lsn_of(page) - 1) // WAL_SEGMENT_BYTES)
            for segment in (a.node.settings.data_dir / "pg_wal").glob("0*"):
                if segment.name < first:
                    segment.unlink()
        await dies_and_is_named(a, 9)


async def test_a_crash_alone_accuses_no_page(tmp_path: Path) -> None:
    """What shared buffers held is not on the disk, which is as it must be."""
    async with tables(tmp_path, **_IDLE) as (_, a, _b):
        for block in (3, 5, 9):
            await change(a, block, "in shared buffers only")
        lsn = await a.connection.fetchval("SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint")
        await a.node.wait(lambda report: report.ledger is not None and report.ledger.read_to_lsn >= lsn - 8192)
        os.kill(await a.connection.fetchval("SELECT pg_backend_pid()"), signal.SIGSEGV)
        await a.node.wait(lambda report: report.postmaster is Postmaster.EXITED)
        async with asyncio.timeout(20):
            while not a.node.running.scrub.post_mortem.looks:
                await asyncio.sleep(0.05)
        assert (await a.node.report()).faults == ()


async def test_a_page_that_was_new_when_the_process_died_is_known_though_the_ledger_had_not_read_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tables(tmp_path, **_IDLE) as (_, a, _b):
        page = page_of(await asyncio.to_thread((await other_table(a)).read_bytes), 9)

        monkeypatch.setattr(LedgerService, "_may_read", lambda self: None)
        size = await a.connection.fetchval("SELECT pg_relation_size('appointment') / 8192")
        await a.connection.execute(
            "INSERT INTO appointment SELECT i, repeat('n', 150) FROM generate_series(100001, 100400) i"
        )
        await a.flush()
        assert a.node.running.scrub.ledger.ledger is not None
        assert not any(size in blocks for blocks in a.node.running.scrub.ledger.ledger.known().values())
        await a.plant(size, resealed(page, size))
        await dies_and_is_named(a, size)


async def test_what_was_written_right_after_a_switch_of_segments_can_be_read(tmp_path: Path) -> None:
    """The rest of the segment before is zero, and no record is found from there on."""
    async with tables(tmp_path, **_IDLE) as (_, a, _b):
        other = await other_table(a)
        await change(a, 9, "newer")
        await a.connection.execute("SELECT pg_switch_wal()")
        await a.connection.execute("UPDATE other SET t = repeat('z', 100) WHERE ctid = '(9,1)'")
        await a.flush()
        await a.connection.execute("CHECKPOINT")
        page = page_of(await asyncio.to_thread(other.read_bytes), 9)
        assert lsn_of(page) % WAL_SEGMENT_BYTES < 64 * 1024
        await a.plant(9, page)
        await dies_and_is_named(a, 9)
