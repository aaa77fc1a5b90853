"""A row whose bytes are not those that WAL has, under a checksum and an LSN that fit: its node is named, and nobody else."""

from __future__ import annotations

import os
from pathlib import Path

import asyncpg
import pytest

from failover.drill.faults.damage import resealed
from replication.installation import find_installation
from replication.model import FaultKind
from replication.page_size import PAGE_BYTES
from replication.scrub.compare import JudgePage
from replication.scrub.findings import Findings
from replication.scrub.ledger_service import LedgerService
from replication.scrub.page_judge import PageJudge
from replication.scrub.wal_ledger import Reading
from tests.integration.replication.test_pages_against_wal import _IDLE, _QUICK, ROWS, finding, tables

pytestmark = pytest.mark.skipif(
    find_installation(None).version[0] < 17, reason="needs PostgreSQL 17 or newer to evict a page while it runs"
)

_CHANGES = (
    "CREATE TABLE mixed (id int PRIMARY KEY, short text, long text, none int)",
    "ALTER TABLE mixed ALTER COLUMN long SET STORAGE EXTERNAL",
    "INSERT INTO mixed SELECT i, 's' || i, repeat(md5(i::text), 100), NULL FROM generate_series(1, 90) i",
    "UPDATE mixed SET short = short || 'u' WHERE id % 3 = 0",
    "CHECKPOINT",
    "UPDATE mixed SET none = 7, long = repeat(md5(id::text), 90) WHERE id % 5 = 0",
    "DELETE FROM mixed WHERE id % 7 = 0",
    "SELECT count(*) FROM mixed WHERE short LIKE '%u'",
    "VACUUM mixed",
    "INSERT INTO mixed SELECT i, 'again', 'short', i FROM generate_series(301, 700) i",
    "SELECT id FROM mixed WHERE id % 11 = 0 FOR UPDATE",
    "VACUUM (FREEZE) mixed",
    "UPDATE mixed SET short = 'last' WHERE id % 13 = 0",
    "INSERT INTO mixed VALUES (1, 'twice', '', 1) ON CONFLICT (id) DO UPDATE SET short = excluded.short",
    "CHECKPOINT",
)
_PLACES = """
SELECT pg_relation_filepath(c.oid) AS path, (pg_relation_size(c.oid) / 8192)::int AS pages FROM pg_class c
WHERE c.oid = 'mixed'::regclass OR c.oid = (SELECT reltoastrelid FROM pg_class WHERE oid = 'mixed'::regclass)
"""


@pytest.mark.parametrize("role", ["primary", "standby"])
async def test_a_letter_of_a_row_that_is_another_one_names_the_node_where_it_is(tmp_path: Path, role: str) -> None:
    async with tables(tmp_path, **_QUICK) as (_, a, b):
        sick, other = (a, b) if role == "primary" else (b, a)
        page = bytearray(await sick.page(9))
        page[page.rindex(b"xxxx")] = ord("y")
        await sick.plant(9, resealed(bytes(page), 9))
        fault = await finding(sick.node, lambda one: one.kind is FaultKind.PAGE_CORRUPT)
        assert fault.is_proof
        assert [place.block for place in fault.places] == [9]
        assert "holds other bytes than WAL has" in fault.sentence
        assert "differs from what transaction" in fault.evidence[0].value
        assert (await other.node.report()).faults == ()


async def test_a_file_that_ends_before_pages_that_postgres_holds_convicts_its_node_at_the_first_insert(
    tmp_path: Path,
) -> None:
    """The write that made it longer did not arrive. A VACUUM that came first would cut the table there, on both nodes."""
    async with tables(tmp_path, **_IDLE) as (_, a, _b):
        await a.connection.execute("SELECT count(note) FROM appointment")
        os.truncate(a.path, 5 * PAGE_BYTES)
        with pytest.raises(asyncpg.PostgresError, match="beyond EOF"):
            for number in range(ROWS + 1, ROWS + 200):
                await a.connection.execute("INSERT INTO appointment VALUES ($1, repeat('x', 150))", number)
        fault = await finding(a.node, lambda one: one.kind is FaultKind.PAGE_CORRUPT, within_s=5)
        assert fault.is_proof
        assert [(place.path, place.block) for place in fault.places] == [
            (str(a.path.relative_to(a.node.settings.data_dir)), 5)
        ]


async def test_whatever_postgres_does_to_its_rows_they_are_as_wal_says(tmp_path: Path) -> None:
    """Long values, updates of every kind, pruning, freezing, locks, images and COPY: each page of the table and of its long
    values is judged as if the nodes differed."""
    async with tables(tmp_path, **_IDLE) as (_, a, _b):
        for sql in _CHANGES:
            await a.connection.execute(sql)
        rows = [(number, f"copied {number}", "x" * 50, None) for number in range(1_000, 1_200)]
        await a.connection.copy_records_to_table("mixed", records=rows)
        await a.connection.execute("CHECKPOINT")
        agent, findings = a.node.running, Findings(a.node.running.memory, lambda _kind: None)
        ledger = LedgerService(agent.local, findings, lambda: None)
        judge = PageJudge(agent.local, findings, ledger)
        try:
            places = await a.connection.fetch(_PLACES)
            judged = [
                await judge.judge(JudgePage(place["path"], block, differs=True))
                for place in places
                for block in range(place["pages"])
            ]
        finally:
            ledger.wal.drop()
        assert {one.reading for one in judged} <= {Reading.FITS, Reading.UNTOLD}, judged
        known = [one for one in judged if one.reading == Reading.FITS]
        assert len(known) > len(judged) // 2 > 20
