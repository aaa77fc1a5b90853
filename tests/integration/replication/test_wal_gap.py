"""WAL that a standby cannot read: its own disk lost it, or its primary's did and sent what was left."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from replication.model import WAL_SEGMENT_BYTES, FaultKind, Place
from replication.page_size import PAGE_BYTES
from replication.wal_files import segment_name
from tests.nodes import NodeUnderTest, two_nodes

_PAGES = 40


def lose_pages(node: NodeUnderTest, lsn: int) -> str:
    """Four pages of WAL that holds this LSN are zero, as when a write of them was lost: the path of its segment."""
    path = f"pg_wal/{segment_name(1, lsn // WAL_SEGMENT_BYTES)}"
    with (node.settings.data_dir / path).open("r+b") as file:
        file.seek(lsn % WAL_SEGMENT_BYTES // PAGE_BYTES * PAGE_BYTES)
        file.write(bytes(4 * PAGE_BYTES))
    return path


@pytest.mark.parametrize("lost_before", [0, 3, None], ids=["as sent", "more than was sent", "not by the primary"])
async def test_the_node_whose_disk_lost_it_is_named(tmp_path: Path, lost_before: int | None) -> None:
    """A walsender may still have in memory what its disk has lost: then less is missing in what it sent."""
    async with two_nodes(tmp_path, checks_every_s=0.5) as pair:
        await pair.stream()
        connection = await pair.a.connect()
        await connection.execute("SELECT pg_switch_wal()")
        lsn = await connection.fetchval("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint") + 16 * PAGE_BYTES
        await connection.execute("INSERT INTO appointment SELECT i, repeat('x', 150) FROM generate_series(1, 4000) i")
        end = await connection.fetchval("SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint")
        assert end > lsn + _PAGES * PAGE_BYTES
        await pair.b.wait(lambda report: (report.replay_lsn or 0) >= end)
        paths = {lose_pages(pair.b, lsn)}
        if lost_before is not None:
            paths.add(lose_pages(pair.a, lsn - lost_before * PAGE_BYTES))
        report = await pair.b.wait(lambda report: report.faults, deadline_s=20)
        (own,) = report.faults
        places = (Place(path=paths.pop()),)
        assert own.kind is FaultKind.WAL_CORRUPT and own.is_proof and own.places == places
        found = [(fault.kind, fault.is_proof, fault.places) for fault in report.upstream_faults]
        assert found == ([(FaultKind.WAL_CORRUPT, True, places)] if lost_before is not None else [])
        await asyncio.wait_for(connection.close(), 5)
