"""What the ledger is told of WAL, most of its records left out, makes the same ledger as every record of it one after the other."""

from __future__ import annotations

import contextlib
from pathlib import Path

import asyncpg
import pytest

from replication.installation import find_installation
from replication.page import lsn_of
from replication.scrub import wal_blocks
from replication.scrub.tuples import places_of
from replication.scrub.wal_ledger import Broken, Ledger, Mark, Reading, Ref, Relation
from tests.integration.replication.storm import CREATE, STEPS
from tests.integration.replication.test_rows_against_wal import _CHANGES
from tests.nodes import one_node

pytestmark = pytest.mark.skipif(
    find_installation(None).version[0] < wal_blocks.BLOCK_INFO_SINCE, reason="needs pg_get_wal_block_info"
)

_EVERY_RECORD = """
SELECT reltablespace::bigint AS tablespace, reldatabase::bigint AS database, relfilenode::bigint AS number,
       relblocknumber::bigint AS block, (end_lsn - '0/0')::bigint AS ends, resource_manager || ' ' || record_type AS kind,
       block_id, block_fpi_data AS image, description
FROM pg_get_wal_block_info($1::pg_lsn, $2::pg_lsn, true) WHERE relforknumber = 0 ORDER BY end_lsn
"""
_NOW = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"


async def every_record(connection: asyncpg.Connection, start: int, end: int) -> list[Ref]:
    """Each by itself, in the order of WAL."""
    return [
        Ref(
            Relation(row["tablespace"], row["database"], row["number"]),
            row["block"],
            row["ends"],
            wal_blocks.mark_of(f"{row['kind']} {row['block_id']}"),
            None if row["image"] is None else lsn_of(row["image"]),
            places_of(row["kind"], row["description"] or "", row["block_id"])
            if row["kind"].startswith(("Heap ", "Heap2 "))
            else None,
        )
        for row in await connection.fetch(_EVERY_RECORD, start, end)
    ]


def told(
    refs: list[Ref], before: list[Ref], start: int, end: int
) -> tuple[Ledger, set[tuple[Relation, int, int, int, Reading]]]:
    """The ledger, and what broke the chain, for one that knew of `before`."""
    ledger = Ledger(start)
    ledger.note(before, start)
    broken: list[Broken] = ledger.note(refs, end)
    return ledger, {(one.relation, one.block, one.end_lsn, one.image_lsn, one.reading) for one in broken}


async def test_records_that_are_left_out_change_nothing_that_the_ledger_knows(tmp_path: Path) -> None:
    async with one_node(tmp_path) as node:
        await node.first_start()
        connection = await node.connect()
        await wal_blocks.make_room(connection)
        await connection.execute("SELECT pg_create_physical_replication_slot('all_of_it', true)")
        start = await connection.fetchval(_NOW)
        await connection.execute(CREATE)
        for number, step in enumerate((*STEPS, *_CHANGES, *STEPS)):
            with contextlib.suppress(asyncpg.ObjectInUseError):
                await connection.execute(step)
            if number % 3 == 0:
                await connection.execute("CHECKPOINT")
        end = await connection.fetchval(_NOW)
        whole = await every_record(connection, start, end)
        short = await wal_blocks.read_refs(connection, start, end)
        assert len(short) < 0.7 * len(whole)
        assert {Mark.SET, Mark.UNSURE} == {ref.mark for ref in short}

        ledger, broken = told(whole, [], start, end)
        again, broken_again = told(short, [], start, end)
        assert again.known() == ledger.known()
        assert len(ledger) > 1_000
        assert broken_again == broken == set()

        every = {(ref.relation, ref.block) for ref in whole}
        for lsn, expected in ((start, Reading.STALE), (start + 1, Reading.STALE), (1, Reading.MISPLACED)):
            before = [Ref(relation, block, lsn, Mark.SET) for relation, block in sorted(every)]
            ledger, broken = told(whole, before, start, end)
            again, broken_again = told(short, before, start, end)
            assert again.known() == ledger.known()
            assert broken_again == broken
            assert expected in {reading for *_, reading in broken}
