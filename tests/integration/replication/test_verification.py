"""Verification after a checkpoint: what a checkpoint wrote is looked at once, and nothing of it is forgotten in a pause."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from replication.model import FaultKind, LedgerStatus
from replication.page_size import PAGE_BYTES
from replication.scrub.relation_path import relation_at
from tests.nodes import NodeUnderTest, one_node

_CREATE = """
CREATE TABLE {0} (i integer, note text) WITH (autovacuum_enabled = false);
INSERT INTO {0} SELECT i, repeat('x', 800) FROM generate_series(1, 4000) i;
"""
"""Vacuumed once and never again: whoever sets a hint bit has PostgreSQL write the page once more, and heals it."""
_INSERTED_TO = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"
_PAUSE_S = 120.0
_BLOCK = 9


def ledger_of(node: NodeUnderTest) -> LedgerStatus | None:
    return node.running.scrub.ledger.status()


async def until(holds: Callable[[], bool], *, within_s: float = 120.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.02)


def exchanged(path: Path, block: int, page: bytes | None = None) -> bytes:
    """What a block of a file held, before it was written over with `page`."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        before = os.pread(descriptor, PAGE_BYTES, block * PAGE_BYTES)
        if page is not None:
            os.pwrite(descriptor, page, block * PAGE_BYTES)
        return before
    finally:
        os.close(descriptor)


async def test_a_lost_write_is_found_although_a_pause_broke_the_verification_off_before_it(tmp_path: Path) -> None:
    async with one_node(tmp_path, scrub_mb_per_s=8.0, scrub_pause_s=600.0, scrub_latency_ms_max=60_000) as node:
        await node.first_start()
        connection = await node.connect()
        for name in ("earlier", "later"):
            await connection.execute(_CREATE.format(name))
            await connection.execute(f"VACUUM (FREEZE) {name}")
        paths = [await connection.fetchval("SELECT pg_relation_filepath($1)", name) for name in ("earlier", "later")]
        earlier, later = map(relation_at, paths)
        assert earlier is not None and later is not None and earlier < later, "they are looked at in this order"
        pause, ledger = node.running.memory.scrub_pause, node.running.scrub.ledger
        created = await connection.fetchval(_INSERTED_TO)
        await connection.execute("CHECKPOINT")
        await until(lambda: ledger._verified_lsn >= created and not ledger._due)
        file = node.settings.data_dir / paths[1]
        old = exchanged(file, _BLOCK)

        pause.begin(_PAUSE_S)
        await connection.execute("UPDATE earlier SET i = -i")
        await connection.execute("UPDATE later SET note = 'newer' WHERE ctid = $1::text::tid", f"({_BLOCK},1)")
        begins = await connection.fetchval(_INSERTED_TO)
        await connection.execute("CHECKPOINT")
        assert exchanged(file, _BLOCK, old) != old, "the checkpoint has not written the page"
        await until(lambda: ledger.redo_lsn >= begins and ledger.read_to >= begins)
        waiting = ledger_of(node)
        assert waiting is not None and waiting.unverified_bytes > 0
        assert (await node.report()).faults == ()

        pause.begin(0)
        await until(lambda: min(ledger._due, default=None) == earlier)
        pause.begin(_PAUSE_S)
        await until(lambda: earlier not in ledger._due)
        assert later in ledger._due, "nothing was broken off"
        assert (await node.report()).faults == ()

        pause.begin(0)
        report = await node.wait(lambda seen: bool(seen.faults), deadline_s=120)
        (fault,) = report.faults
        assert fault.kind is FaultKind.LOST_WRITE and fault.is_proof
        assert [(place.path, place.block) for place in fault.places] == [(paths[1], _BLOCK)]
        assert [one.what for one in fault.evidence] == ["verification after a checkpoint"]
        await until(lambda: (now := ledger_of(node)) is not None and now.unverified_bytes == 0)
