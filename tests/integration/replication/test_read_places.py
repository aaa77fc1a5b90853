"""A damaged page on a primary is told at once, with its place; the same place is read on the standby."""

from __future__ import annotations

import os
import time
from pathlib import Path

import asyncpg
import pytest

from replication import actions
from replication.model import FaultKind, NodeReport, Place
from replication.page import as_pages, damaged
from replication.page_size import PAGE_BYTES
from tests.integration.replication.load import insert
from tests.nodes import POSTGRES_15, NodeUnderTest, Pair, two_nodes

needs_15 = pytest.mark.skipif(not (POSTGRES_15 / "postgres").exists(), reason="no system PostgreSQL 15")
versions = pytest.mark.parametrize(
    "bindir", [None, pytest.param(POSTGRES_15, marks=[needs_15, pytest.mark.postgres15])]
)
ROWS = 5_000


async def file_of(node: NodeUnderTest, relation: str) -> str:
    """The relation's file below the data directory."""
    connection = await node.connect()
    try:
        return str(await connection.fetchval("SELECT pg_relation_filepath($1::regclass)", relation))
    finally:
        await connection.close()


def write_noise(node: NodeUnderTest, path: str, block: int) -> bytes:
    """8 KB of noise over one page: what was there."""
    with (node.settings.data_dir / path).open("r+b") as file:
        file.seek(block * PAGE_BYTES)
        whole = file.read(PAGE_BYTES)
        file.seek(block * PAGE_BYTES)
        file.write(os.urandom(PAGE_BYTES))
        file.flush()
        os.fsync(file.fileno())
    return whole


async def ready_pair(pair: Pair) -> None:
    """Rows on both nodes, on their disks, and out of a's shared buffers after its next start."""
    await pair.stream()
    await insert(pair.a, ROWS)
    await pair.a.act(actions.Checkpoint((await pair.a.report()).incarnation or ""))
    end = (await pair.a.report()).flush_lsn or 0
    await pair.b.wait(lambda report: (report.replay_lsn or 0) >= end)
    connection = await pair.b.connect()
    await connection.execute("CHECKPOINT")
    await connection.close()


async def restart_with_noise(pair: Pair, path: str, block: int) -> None:
    """The primary's page turns to noise while it is down."""
    await pair.a.act(actions.Stop(10_000, (await pair.a.report()).incarnation or ""))
    write_noise(pair.a, path, block)
    await pair.a.act(actions.StartPrimary())


async def read_all(node: NodeUnderTest) -> None:
    connection = await node.running.node.connect(database="locum")
    try:
        await connection.fetch("SELECT note FROM appointment")
    finally:
        await connection.close()


def page_fault(report: NodeReport) -> bool:
    return any(fault.kind is FaultKind.PAGE_CORRUPT for fault in report.faults)


@versions
async def test_a_query_that_meets_noise_is_told_at_once_and_the_standby_reads_the_same_place(
    tmp_path: Path, bindir: Path | None
) -> None:
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await ready_pair(pair)
        path = await file_of(pair.a, "appointment")
        await restart_with_noise(pair, path, 3)
        with pytest.raises(asyncpg.DataCorruptedError):
            await read_all(pair.a)
        began = time.monotonic()
        report = await pair.a.wait(page_fault, deadline_s=5)
        assert time.monotonic() - began < 1, "it waited for a poll"
        (fault,) = (fault for fault in report.faults if fault.kind is FaultKind.PAGE_CORRUPT)
        assert fault.places == (Place(path, block=3),)
        assert "XX001" in fault.evidence[0].value
        await pair.b.act(actions.ReadPlaces(fault.places, 5_000))
        found = (await pair.b.report()).places_read
        assert found is not None
        assert found.clean
        assert found.complete
        assert found.pages > ROWS * 100 // PAGE_BYTES
        assert not (await pair.b.report()).faults


@versions
@pytest.mark.parametrize("relation", ["appointment", "appointment_pkey"])
async def test_a_candidate_that_is_damaged_on_its_disk_only_is_found_out(
    tmp_path: Path, bindir: Path | None, relation: str
) -> None:
    """Its shared buffers still hold the page as it was: a query there would see nothing."""
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await ready_pair(pair)
        path = await file_of(pair.a, relation)
        write_noise(pair.b, path, 2)
        await pair.b.act(actions.ReadPlaces((Place(path, block=2),), 5_000))
        report = await pair.b.report()
        assert report.places_read is not None
        assert not report.places_read.clean
        assert Place(path, block=2) in report.places_read.damaged
        assert page_fault(report)


async def test_damage_elsewhere_in_the_same_relation_is_found_too(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await ready_pair(pair)
        path = await file_of(pair.a, "appointment")
        write_noise(pair.b, path, 9)
        await pair.b.act(actions.ReadPlaces((Place(path, block=2),), 5_000))
        found = (await pair.b.report()).places_read
        assert found is not None
        assert found.damaged[0] == Place(path, block=9)


async def test_an_index_is_found_by_name_and_what_is_unknown_is_no_damage(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await ready_pair(pair)
        places = (Place(relation="appointment_pkey", block=1), Place("base/5/99999", block=1), Place("pg_xact/0000"))
        await pair.b.act(actions.ReadPlaces(places, 5_000))
        found = (await pair.b.report()).places_read
        assert found is not None
        assert found.clean
        assert found.pages > 5


async def test_a_rebuild_ends_the_fault(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await ready_pair(pair)
        path = await file_of(pair.a, "appointment")
        write_noise(pair.b, path, 2)
        await pair.b.act(actions.ReadPlaces((Place(path, block=2),), 5_000))
        await pair.b.act(actions.Fence())
        assert page_fault(await pair.b.report())
        await pair.b.act(actions.Rebuild(source="a", slot="locum_b", nonce="n2", fast_checkpoint=True))
        assert not (await pair.b.report()).faults


async def test_every_page_that_postgresql_wrote_has_the_checksum_that_is_computed_here(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await ready_pair(pair)
        data_dir = pair.a.settings.data_dir
        await pair.a.act(actions.Stop(10_000, (await pair.a.report()).incarnation or ""))
        looked_at = 0
        for path in data_dir.glob("base/*/[0-9]*"):
            pages = as_pages(path.read_bytes())
            assert damaged(pages, 0) == [], path
            looked_at += len(pages)
        assert looked_at > 1_000
