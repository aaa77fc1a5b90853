"""A map that called rows visible which are not, and that VACUUM has mended: only PostgreSQL's log tells of it afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from replication.model import FaultKind
from replication.page_size import PAGE_BYTES
from tests.nodes import one_node

_EVICT = """
SELECT count(pg_buffercache_evict(bufferid)) FROM pg_buffercache WHERE relfilenode = pg_relation_filenode('appointment')
"""


async def test_a_map_from_the_past_that_vacuum_met_is_named(tmp_path: Path) -> None:
    async with one_node(tmp_path, scrub_enabled=False) as node:
        if node.running.node.installation.version[0] < 17:
            pytest.skip("a page cannot be evicted from shared buffers below PostgreSQL 17")
        await node.first_start()
        connection = await node.connect()
        await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_buffercache")
        await connection.execute("INSERT INTO appointment SELECT i, 'x' FROM generate_series(1, 50) i")
        await connection.execute("VACUUM appointment")
        await connection.execute("CHECKPOINT")
        relation = await connection.fetchval("SELECT pg_relation_filepath('appointment')")
        path = node.settings.data_dir / f"{relation}_vm"
        before = path.read_bytes()[:PAGE_BYTES]
        await connection.execute("UPDATE appointment SET note = 'y' WHERE id = 1")
        await connection.execute("CHECKPOINT")
        await connection.fetchval(_EVICT)
        assert path.read_bytes()[:PAGE_BYTES] != before
        assert not (await node.report()).faults
        with path.open("r+b") as file:
            file.write(before)
        await connection.execute("VACUUM (DISABLE_PAGE_SKIPPING) appointment")
        report = await node.wait(lambda report: report.faults, deadline_s=10)
        (fault,) = report.faults
        assert fault.kind is FaultKind.VM_CORRUPT and fault.is_proof
        assert [(place.relation, place.block) for place in fault.places] == [("appointment", 0)]
        await connection.close()
