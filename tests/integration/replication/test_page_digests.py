"""Both nodes' pages at one LSN, compared by the digest of what WAL determines of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from failover.drill.faults.damage import resealed
from replication.installation import find_installation
from replication.model import FaultKind
from tests.integration.replication.test_pages_against_wal import _EVICT, _QUICK, Table, change, finding, settled, tables

pytestmark = pytest.mark.skipif(
    find_installation(None).version[0] < 17, reason="needs PostgreSQL 17 or newer to evict a page while it runs"
)


async def test_a_second_write_lost_within_one_checkpoint_is_seen_by_the_digest(tmp_path: Path) -> None:
    """Both copies bear one LSN, and the chain in WAL is whole: their contents differ, and WAL knows whose tuple has no trace."""
    async with tables(tmp_path, **_QUICK) as (_, a, b):
        await a.connection.execute("CHECKPOINT")
        await change(a, 9, "first")
        await a.connection.fetchval(_EVICT)
        once = await a.page(9)
        await a.connection.execute("DELETE FROM appointment WHERE ctid = '(9,7)'")
        await a.connection.fetchval(_EVICT)
        await a.plant(9, once)
        await a.connection.execute("DELETE FROM appointment WHERE ctid = '(9,9)'")
        await settled(a, b)
        fault = await finding(a.node, lambda one: one.kind is FaultKind.LOST_WRITE)
        assert fault.is_proof and fault.places[0].block == 9
        assert "tuple 7" in fault.evidence[0].value
        assert (await b.node.report()).faults == ()


@pytest.mark.parametrize(
    ("role", "made", "at_byte"),
    [
        ("primary", "gist (int8range(id, id + 1))", 12),  # within the key: behind t_tid and t_info
        ("standby", "gist (int8range(id, id + 1))", 12),
        ("primary", "gin ((ARRAY[id]))", 8),
        ("standby", "spgist ((id::text))", 8),
    ],
)
async def test_a_page_of_an_index_that_is_no_btree_and_differs_raises_an_alarm(
    tmp_path: Path, role: str, made: str, at_byte: int
) -> None:
    """An entry that is missing in a constraint's lets two patients book one time; PostgreSQL has no check of GiST of its own."""
    evict = _EVICT.replace("'appointment'", "'appointment_other'")
    async with tables(tmp_path, **_QUICK) as (_, a, b):
        await a.connection.execute(f"CREATE INDEX appointment_other ON appointment USING {made}")
        await settled(a, b)
        path = await a.connection.fetchval("SELECT pg_relation_filepath('appointment_other')")
        struck = a if role == "primary" else b
        await struck.connection.fetchval(evict)
        index = Table(struck.node, struck.connection, struck.node.settings.data_dir / path)
        page = bytearray(await index.page(1))
        last_entry = int.from_bytes(page[14:16], "little")  # pd_upper
        page[last_entry + at_byte] ^= 1
        await index.plant(1, resealed(bytes(page), 1))
        fault = await finding(b.node, lambda one: any((at.path, at.block) == (path, 1) for at in one.places))
        assert fault.kind is FaultKind.LOST_WRITE and not fault.is_proof


async def test_a_row_of_a_catalog_that_differs_at_one_lsn_is_found(tmp_path: Path) -> None:
    async with tables(tmp_path, **_QUICK) as (pair, _, b):
        path, block = await b.connection.fetchrow(
            "SELECT pg_relation_filepath('pg_proc'), (SELECT max((ctid::text::point)[0]::int) FROM pg_proc) - 1"
        )
        catalog = Table(b.node, b.connection, b.node.settings.data_dir / path)
        page = bytearray(await catalog.page(block))
        last_row = int.from_bytes(page[14:16], "little")  # pd_upper
        page[last_row + 40] ^= 1
        await b.connection.fetchval(
            _EVICT.replace("pg_relation_filenode('appointment')", "pg_relation_filenode('pg_proc')")
        )
        await catalog.plant(block, resealed(bytes(page), block))
        await finding(pair.b, lambda one: any((at.path, at.block) == (path, block) for at in one.places))
        assert (await pair.a.report()).faults == ()
