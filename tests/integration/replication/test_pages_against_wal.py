"""Pages with a checksum that fits and the wrong content, on real nodes: WAL and the other node tell, and name the guilty one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from failover.drill.faults.damage import page_of, resealed
from replication.installation import find_installation
from replication.model import Fault, FaultKind
from replication.page import lsn_of
from replication.page_size import PAGE_BYTES
from replication.scrub.compare import JudgePage
from replication.scrub.findings import Findings
from replication.scrub.ledger_service import LedgerService
from replication.scrub.page_judge import PageJudge
from replication.scrub.relation_path import relation_at
from replication.scrub.wal_ledger import Reading, Relation
from replication.scrub.wal_questions import WalQuestions
from tests.nodes import NodeUnderTest, Pair, two_nodes

pytestmark = pytest.mark.skipif(
    find_installation(None).version[0] < 17, reason="needs PostgreSQL 17 or newer to evict a page while it runs"
)

ROWS = 4_000
FOUND_S = 15.0
_EVICT = """
SELECT count(pg_buffercache_evict(bufferid)) FROM pg_buffercache WHERE relfilenode = pg_relation_filenode('appointment')
"""
_QUICK = {"scrub_mb_per_s": 0.0, "compare_mb_per_s": 0.0, "scrub_pause_s": 0.5}
_IDLE = {"scrub_mb_per_s": 0.0, "compare_mb_per_s": 0.0, "scrub_pause_s": 600.0}


class Table:
    """The table `appointment`, about a hundred pages, as one node has it."""

    def __init__(self, node: NodeUnderTest, connection: asyncpg.Connection, path: Path) -> None:
        self.node = node
        self.connection = connection
        self.path = path

    async def flush(self) -> None:
        """All of it onto the disk, and out of shared buffers."""
        await self.connection.execute("CHECKPOINT")
        await self.connection.fetchval(_EVICT)

    async def page(self, block: int) -> bytes:
        return page_of(await asyncio.to_thread(self.path.read_bytes), block)

    async def plant(self, block: int, page: bytes) -> None:
        """Put a page there, behind PostgreSQL's back, where nothing of it is cached."""
        await self.connection.fetchval(_EVICT)
        with self.path.open("r+b") as file:
            file.seek(block * PAGE_BYTES)
            file.write(page)


@asynccontextmanager
async def tables(root: Path, **settings: float) -> AsyncIterator[tuple[Pair, Table, Table]]:
    async with two_nodes(root, **settings) as pair:
        await pair.stream()
        opened = []
        primary = await pair.a.connect()
        await primary.execute("CREATE EXTENSION pg_buffercache")
        for node in (pair.a, pair.b):
            await node.wait(lambda report: report.ledger is not None)
        await primary.execute(
            "INSERT INTO appointment SELECT i, repeat('x', 150) FROM generate_series(1, $1::int) i", ROWS
        )
        path = await primary.fetchval("SELECT pg_relation_filepath('appointment')")
        for node in (pair.a, pair.b):
            connection = await node.connect()
            opened.append(connection)
        try:
            a, b = (
                Table(node, c, node.settings.data_dir / path) for node, c in zip((pair.a, pair.b), opened, strict=True)
            )
            await settled(a, b)
            yield pair, a, b
        finally:
            for connection in (primary, *opened):
                connection.terminate()


async def settled(a: Table, b: Table) -> None:
    """Everything is on both disks, hint bits too: an image for one that is set later would heal a standby's page."""
    await a.connection.fetchval("SELECT count(note) FROM appointment")
    await a.flush()
    lsn = await a.connection.fetchval("SELECT pg_current_wal_flush_lsn()")
    async with asyncio.timeout(20):
        while not await b.connection.fetchval("SELECT pg_last_wal_replay_lsn() >= $1", lsn):
            await asyncio.sleep(0.02)
    await b.flush()


async def finding(
    node: NodeUnderTest, wanted: Callable[[Fault], bool], *, of_upstream: bool = False, within_s: float = FOUND_S
) -> Fault:
    until = time.monotonic() + within_s
    while True:
        report = await node.report()
        faults = report.upstream_faults if of_upstream else report.faults
        for fault in faults:
            if wanted(fault):
                return fault
        seen = (report.faults, report.ledger, report.comparison_of_pages, report.scrub, report.redo_lsn)
        assert time.monotonic() < until, "\n".join(map(str, seen))
        await asyncio.sleep(0.05)


async def change(table: Table, block: int, note: str) -> None:
    await table.connection.execute(
        "UPDATE appointment SET note = $1 WHERE ctid = (SELECT min(ctid) FROM appointment WHERE ctid > format('(%s,0)', $2::int)::tid)",
        note,
        block,
    )


@pytest.mark.parametrize("role", ["primary", "standby"])
async def test_a_stale_page_that_nobody_touches_is_found_and_only_its_node_blamed(tmp_path: Path, role: str) -> None:
    async with tables(tmp_path, **_QUICK) as (_, a, b):
        sick, other = (a, b) if role == "primary" else (b, a)
        old = await sick.page(9)
        await change(a, 9, "newer")
        await settled(a, b)
        await sick.plant(9, old)
        fault = await finding(sick.node, lambda one: one.kind in (FaultKind.STALE_PAGE, FaultKind.LOST_WRITE))
        assert fault.is_proof and [place.block for place in fault.places] == [9]
        assert (await other.node.report()).faults == ()


async def test_a_stale_page_that_is_changed_first_is_named_by_the_chain_in_wal(tmp_path: Path) -> None:
    """By both agents: the standby has received the proof of what its primary read back."""
    async with tables(tmp_path, **_IDLE) as (pair, a, b):
        old = await a.page(9)
        await change(a, 9, "newer")
        await settled(a, b)
        await a.connection.execute("CHECKPOINT")
        await a.plant(9, old)
        began = time.monotonic()
        await change(a, 9, "on an old page")
        fault = await finding(pair.a, lambda one: one.kind is FaultKind.STALE_PAGE, within_s=5)
        assert fault.is_proof and fault.places[0].block == 9
        await finding(pair.b, lambda one: one.kind is FaultKind.STALE_PAGE, of_upstream=True, within_s=5)
        print(f"named after {time.monotonic() - began:.2f} s")
        assert (await pair.b.report()).faults == ()


@pytest.mark.parametrize("role", ["primary", "standby"])
async def test_a_page_of_another_place_names_the_guilty_node(tmp_path: Path, role: str) -> None:
    """The other node's page looks late beside it, and is not."""
    async with tables(tmp_path, **_QUICK) as (_, a, b):
        sick, other = (a, b) if role == "primary" else (b, a)
        await change(a, 20, "the newest page")
        await settled(a, b)
        await sick.plant(9, resealed(await sick.page(20), 9))
        fault = await finding(sick.node, lambda one: one.kind is FaultKind.MISDIRECTED_WRITE)
        assert fault.is_proof and fault.places[0].block == 9
        assert (await other.node.report()).faults == ()


async def test_a_page_zeroed_in_the_middle_of_a_table_is_found(tmp_path: Path) -> None:
    async with tables(tmp_path, **_QUICK) as (pair, a, _):
        await a.plant(9, bytes(PAGE_BYTES))
        fault = await finding(pair.a, lambda one: one.kind in (FaultKind.STALE_PAGE, FaultKind.LOST_WRITE))
        assert fault.is_proof and fault.places[0].block == 9


@pytest.mark.parametrize("role", ["primary", "standby"])
async def test_a_transaction_that_pg_xact_has_forgotten_names_the_node_that_forgot(tmp_path: Path, role: str) -> None:
    async with tables(tmp_path, **_QUICK) as (pair, a, b):
        for _ in range(8):
            await a.connection.execute("UPDATE appointment SET note = 'again' WHERE id = 1")
        xid = int(await a.connection.fetchval("SELECT xmin::text FROM appointment WHERE id = 1")) - 4
        await a.connection.execute("UPDATE appointment SET note = 'later' WHERE id = 2")
        await settled(a, b)
        sick = a if role == "primary" else b
        with (sick.node.settings.data_dir / "pg_xact" / "0000").open("r+b") as file:
            file.seek(xid // 4)
            byte = file.read(1)[0]
            file.seek(xid // 4)
            file.write(bytes([byte & ~(3 << 2 * (xid % 4))]))
        fault = await finding(pair.b, lambda one: one.kind is FaultKind.CONTROL_CORRUPT, of_upstream=role == "primary")
        assert fault.is_proof and fault.places[0].path == "pg_xact/0000"
        assert ((await pair.b.report()).faults == ()) is (role == "primary")


async def test_a_standby_that_was_looked_at_as_a_whole_certifies_itself(tmp_path: Path) -> None:
    async with tables(tmp_path, **_QUICK, relation_checks_share=1.0) as (pair, _, _b):
        report = await pair.b.wait(lambda seen: seen.certificate is not None, deadline_s=150)
        certificate = report.certificate
        assert certificate is not None and report.redo_lsn is not None
        assert 0 < certificate.checked_through_lsn <= report.redo_lsn, (
            "what no checkpoint had written was not looked at"
        )
        assert not certificate.cached and certificate.pages > 1_000
        assert "chain check of WAL" in certificate.checks
        assert (await pair.a.report()).certificate is None, "a primary is compared by its standby"


async def test_a_page_that_is_empty_because_its_table_was_cut_off_since_is_no_fault_although_the_ledger_has_not_read_so_far(
    tmp_path: Path,
) -> None:
    """A ledger that the processor's hunger keeps behind knows the rows, and not that they were vacuumed away."""
    async with tables(tmp_path, **_IDLE) as (_, a, _b):
        agent, findings = a.node.running, Findings(a.node.running.memory, lambda _kind: None)
        behind = LedgerService(agent.local, findings, lambda: None)
        judge = PageJudge(agent.local, findings, behind)
        try:
            await behind._follow()
            await change(a, 9, "newer")
            await a.connection.execute("CHECKPOINT")
            lsn = await a.connection.fetchval("SELECT pg_current_wal_flush_lsn()")
            async with asyncio.timeout(20):
                while behind.redo_lsn < lsn - 4096 or behind.read_to < lsn - 4096:
                    await behind._follow()
                    await asyncio.sleep(0.02)
            await a.connection.execute("DELETE FROM appointment")
            await a.connection.execute("VACUUM (TRUNCATE) appointment")
            assert a.path.stat().st_size == 0, "nothing was cut off"
            with a.path.open("r+b") as file:
                file.truncate(12 * PAGE_BYTES)  # as an extension leaves it, until something writes the pages
            asked = JudgePage(str(a.path.relative_to(a.node.settings.data_dir)), 9, None, False)
            assert behind.ledger is not None
            relation = relation_at(asked.path)
            assert relation is not None
            assert behind.ledger.judge(relation, 9, 0, behind.redo_lsn) is Reading.STALE
            assert (await judge.judge(asked)).reading == Reading.UNTOLD
        finally:
            behind.wal.drop()


@pytest.mark.parametrize(("written_by", "reading"), [("a hint", Reading.UNTOLD), ("a change", Reading.STALE)])
async def test_a_page_older_than_its_peers_is_stale_only_if_the_record_between_them_must_have_moved_it(
    tmp_path: Path, written_by: str, reading: Reading
) -> None:
    """PostgreSQL itself may leave the LSN as it was when it sets a hint (bufmgr.c, MarkBufferDirtyHint). A ledger that began
    later asks WAL for the record at which the peer's page ends."""
    async with tables(tmp_path, **_IDLE) as (_, a, _b):
        deletion = a.connection.transaction()
        await deletion.start()
        await a.connection.execute("DELETE FROM appointment WHERE ctid = '(9,3)'")
        await deletion.rollback()  # what reads that row next leaves a hint that it lives
        await a.flush()
        old = await a.page(9)
        if written_by == "a hint":
            await a.connection.fetchval("SELECT count(note) FROM appointment")
        else:
            await change(a, 9, "newer")
        await a.flush()
        peer_lsn = lsn_of(await a.page(9))
        assert peer_lsn > lsn_of(old), "nothing was logged"
        await a.connection.execute("SELECT pg_switch_wal()")
        await a.connection.execute("CHECKPOINT")
        await a.plant(9, old)
        await a.node.wait(lambda report: report.redo_lsn is not None and report.redo_lsn > peer_lsn)
        agent = a.node.running
        later = LedgerService(agent.local, Findings(agent.memory, lambda _kind: None), lambda: None)
        judge = PageJudge(agent.local, Findings(agent.memory, lambda _kind: None), later)
        try:
            async with asyncio.timeout(20):
                while later.ledger is None or later.redo_lsn < peer_lsn:
                    await later._follow()
                    await asyncio.sleep(0.02)
            path = str(a.path.relative_to(a.node.settings.data_dir))
            relation = relation_at(path)
            assert relation is not None and later.ledger.last(relation, 9) is None, "the ledger itself would tell"
            assert (await judge.judge(JudgePage(path, 9, peer_lsn, False))).reading == reading
        finally:
            later.wal.drop()


async def test_files_that_nobody_else_sees_yet_are_told_from_those_of_a_table(tmp_path: Path) -> None:
    async with tables(tmp_path, **_IDLE) as (_, a, _b):
        wal = WalQuestions(a.node.running.local)
        try:
            path = await a.connection.fetchval("SELECT pg_relation_filepath('appointment')")
            assert await wal.is_committed(relation_at(path) or Relation(0, 0, 0))
            async with a.connection.transaction():
                await a.connection.execute("CREATE TABLE half AS SELECT generate_series(1, 9) i")
                half = relation_at(await a.connection.fetchval("SELECT pg_relation_filepath('half')"))
                assert not await wal.is_committed(half or Relation(0, 0, 0))
            assert await wal.is_committed(half or Relation(0, 0, 0))
        finally:
            wal.drop()
