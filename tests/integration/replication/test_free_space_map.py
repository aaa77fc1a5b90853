"""A damaged map of free space, on real nodes: nobody is replaced, the primary makes it anew, and the alarm ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from replication.model import FREE_SPACE_MAP, FaultKind, NodeReport
from replication.page import as_pages, damaged
from replication.page_size import PAGE_BYTES
from tests.nodes import two_nodes

ROWS = 4_000
_SETTINGS = {"scrub_mb_per_s": 0.0, "scrub_pause_s": 0.3, "checks_every_s": 0.3}
_PATH = "SELECT pg_relation_filepath($1::text::regclass)"
_EVICT = """
SELECT count(pg_buffercache_evict(bufferid)) FROM pg_buffercache
WHERE relfilenode = pg_relation_filenode('appointment') AND relforknumber = 1
"""


def suspected(report: NodeReport) -> list[str]:
    found = [fault for fault in report.faults if fault.kind is FaultKind.PAGE_CORRUPT]
    assert not any(fault.is_proof for fault in found), found
    return [str(place.path) for fault in found for place in fault.places]


def spoil(path: Path) -> None:
    with path.open("r+b") as file:
        for block in range(path.stat().st_size // PAGE_BYTES):
            file.seek(block * PAGE_BYTES + 100)
            file.write(b"noise")


async def test_a_damaged_map_of_free_space_is_made_anew_and_the_alarm_ends(tmp_path: Path) -> None:
    async with two_nodes(tmp_path, **_SETTINGS) as pair:
        if pair.a.running.node.installation.version[0] < 17:
            pytest.skip("a page cannot be evicted from shared buffers below PostgreSQL 17")
        await pair.stream()
        primary = await pair.a.connect()
        try:
            await primary.execute("CREATE EXTENSION pg_buffercache")
            await primary.execute(
                "INSERT INTO appointment SELECT i, repeat('x', 150) FROM generate_series(1, $1::int) i", ROWS
            )
            await primary.execute("DELETE FROM appointment WHERE id > 50")
            await primary.execute("VACUUM (TRUNCATE OFF) appointment")
            await primary.execute("CHECKPOINT")
            path = f"{await primary.fetchval(_PATH, 'appointment')}{FREE_SPACE_MAP}"
            await primary.fetchval(_EVICT)
            file = pair.a.settings.data_dir / path
            spoil(file)
            await pair.a.wait(lambda report: path in suspected(report))
            await primary.execute("INSERT INTO appointment VALUES (9000, 'booked meanwhile')")
            await pair.a.wait(lambda report: not suspected(report), deadline_s=30)
            assert not damaged(as_pages(await asyncio.to_thread(file.read_bytes)), 0)
            assert await primary.fetchval("SELECT note FROM appointment WHERE id = 9000") == "booked meanwhile"
        finally:
            primary.terminate()


async def test_the_alarm_ends_with_the_table(tmp_path: Path) -> None:
    async with two_nodes(tmp_path, **_SETTINGS) as pair:
        await pair.stream()
        primary = await pair.a.connect()
        try:
            await primary.execute("CREATE TABLE short_lived AS SELECT i FROM generate_series(1, $1::int) i", ROWS)
            await primary.execute("VACUUM short_lived")
            await primary.execute("CHECKPOINT")
            path = f"{await primary.fetchval(_PATH, 'short_lived')}{FREE_SPACE_MAP}"
            spoil(pair.a.settings.data_dir / path)
            await pair.a.wait(lambda report: path in suspected(report))
            await primary.execute("DROP TABLE short_lived")
            await primary.execute("CHECKPOINT")
            await pair.a.wait(lambda report: not suspected(report), deadline_s=30)
        finally:
            primary.terminate()
