"""Which blocks the WAL names, in its order: through pg_walinspect on PostgreSQL 16 and newer, as text of pg_waldump on 15.

Sources: contrib/pg_walinspect/pg_walinspect.c; src/bin/pg_waldump/pg_waldump.c (XLogDumpDisplayRecord). On 15 nothing gives the
images, so that the chain check is not to be had there.
"""

from __future__ import annotations

import asyncio
import re
from bisect import bisect
from collections.abc import Iterable, Iterator
from functools import lru_cache
from operator import itemgetter

import asyncpg

from replication.errors import ActionFailed
from replication.model import Reason
from replication.node import Node
from replication.page import lsn_of
from replication.scrub.tuples import HeapRecord, Places, places_of
from replication.scrub.wal_ledger import Mark, Ref, Relation
from replication.wal_end import record_end, waldump

BLOCK_INFO_SINCE = 16
_ROWS_AT_ONCE = 200
_END = itemgetter(0)
_REFS = """
SELECT reltablespace::bigint AS tablespace, reldatabase::bigint AS database, relfilenode::bigint AS number,
       relblocknumber::bigint AS block,
       array_agg(end_lsn) FILTER (WHERE NOT tells) AS plain,
       array_agg(end_lsn) FILTER (WHERE tells) AS ends,
       array_agg(resource_manager || ' ' || record_type || ' ' || block_id) FILTER (WHERE tells) AS kinds,
       array_agg(substring(block_fpi_data FROM 1 FOR 8)) FILTER (WHERE tells) AS images,
       array_agg(CASE WHEN resource_manager = 'Heap' AND record_type LIKE '%UPDATE%'
                      THEN substring(description FROM position('new_off' IN description))
                      WHEN resource_manager IN ('Heap', 'Heap2') THEN description END) FILTER (WHERE tells) AS said
FROM (SELECT *, block_fpi_data IS NOT NULL
                OR NOT (resource_manager IN ('Btree', 'Gist', 'Gin', 'SPGist', 'BRIN')
                        OR resource_manager = 'Heap' AND record_type IN ('LOCK', 'HEAP_CONFIRM')) AS tells
      FROM pg_get_wal_block_info($1::pg_lsn, $2::pg_lsn, true) WHERE relforknumber = 0
      OFFSET 0) AS refs -- so that it is not asked anew for each column
GROUP BY relfilenode, relblocknumber, reldatabase, reltablespace
"""
_ROOM = "SELECT set_config('work_mem', '32MB', false), set_config('enable_sort', 'off', false)"
_HEAP = """
SELECT resource_manager || ' ' || record_type AS kind, description, xid::text::bigint AS xid, block_id, blocks, block_fpi_data, block_data,
       (end_lsn - '0/0')::bigint AS ends
FROM (SELECT *, count(*) OVER (PARTITION BY start_lsn) AS blocks
      FROM pg_get_wal_block_info($1::pg_lsn, $2::pg_lsn, true)) AS refs
WHERE relforknumber = 0 AND reltablespace = $3::bigint::oid AND reldatabase = $4::bigint::oid
  AND relfilenode = $5::bigint::oid AND relblocknumber = $6::bigint ORDER BY end_lsn
"""
_PAGE = """
SELECT get_raw_page(c.oid::regclass::text, 'main', $4::bigint)
FROM (SELECT pg_filenode_relation(CASE $1::bigint WHEN 1663 THEN 0 ELSE $1::bigint END::oid, $3::bigint::oid) AS oid) c,
     pg_database d
WHERE d.datname = current_database() AND d.oid = $2::bigint::oid AND c.oid IS NOT NULL
  AND $4::bigint < pg_relation_size(c.oid) / current_setting('block_size')::bigint
"""
_LAST_END = "SELECT max(end_lsn - '0/0')::bigint FROM pg_get_wal_records_info($1::pg_lsn, $2::pg_lsn)"
_CUT = """
SELECT EXISTS (SELECT 1 FROM pg_get_wal_records_info($1::pg_lsn, $2::pg_lsn)
               WHERE resource_manager = 'Storage' AND record_type = 'TRUNCATE' AND description LIKE $3 || ' to %')
"""
_RECEIVED = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() END"
_WRITTEN = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END"
_COMMITTED = """
SELECT $2::bigint IN (0, d.oid::bigint)
       AND pg_filenode_relation(CASE $1::bigint WHEN 1663 THEN 0 ELSE $1::bigint END::oid, $3::bigint::oid) IS NOT NULL
FROM pg_database d WHERE d.datname = current_database()
"""
_UNSURE = re.compile(r"XLOG FPI_FOR_HINT |Hash (?:SQUEEZE_PAGE|MOVE_PAGE_CONTENTS|DELETE) ")
_LINE = re.compile(
    r"rmgr: (\S+)\s+len \(rec/tot\):\s*\d+/\s*(\d+), tx:\s*\d+, lsn: ([0-9A-F]+)/([0-9A-F]+), prev [^,]+, desc: (\S*)"
)
_BLOCK = re.compile(r"blkref #(?P<id>\d+): rel (?P<rel>\d+/\d+/\d+)(?: fork (?P<fork>\w+))? blk (?P<block>\d+)")


def mark_of(kind: str) -> Mark:
    """What a record of this kind (`Heap INSERT 0`: resource manager, type, number of its block) does to the page's LSN."""
    return Mark.UNSURE if _UNSURE.match(kind) else Mark.SET


async def make_room(connection: asyncpg.Connection) -> None:
    """Let the question for `read_refs` be answered in memory. PostgreSQL takes what a function gives for a few rows, and would sort
    them, on a disk, for twice the time."""
    await connection.execute(_ROOM)


async def read_refs(connection: asyncpg.Connection, start_lsn: int, end_lsn: int) -> list[Ref]:
    """The blocks that records in [start, end) name, those of one block in the order of WAL (16 and newer): every record that
    tells of the page, and of the many others, which only set its LSN, the last and those that one that tells is judged by.

    Raises asyncpg's errors: an InvalidParameterValue or a missing segment when that WAL is not here (any more).
    """
    refs: list[Ref] = []
    for number, row in enumerate(await connection.fetch(_REFS, start_lsn, end_lsn)):
        refs += _of_row(row)
        if number % _ROWS_AT_ONCE == 0:
            await asyncio.sleep(0)  # an agent that is busy looks like a dead one
    return refs


def _of_row(row: asyncpg.Record) -> Iterator[Ref]:
    relation, block = Relation(row["tablespace"], row["database"], row["number"]), row["block"]
    plain, last = sorted(row["plain"] or ()), 0  # a grouping need not keep the order
    if row["ends"] is not None:
        words = list(zip(row["ends"], row["kinds"], row["images"], row["said"], strict=True))
        words.sort(key=_END)
        for end, kind, image, said in words:
            mark, places = _meaning(kind, said)
            if image is not None or mark is Mark.UNSURE:
                before = bisect(plain, end)
                if before and plain[before - 1] > last:
                    yield Ref(relation, block, plain[before - 1], Mark.SET, None, Places())
            last = end
            yield Ref(relation, block, end, mark, None if image is None else lsn_of(image), places)
    if plain and plain[-1] > last:
        yield Ref(relation, block, plain[-1], Mark.SET, None, Places())


@lru_cache(maxsize=16_384)
def _meaning(kind: str, said: str | None) -> tuple[Mark, Places | None]:
    """Records of the same words say the same: most inserts differ only in where they are, and there are many of them."""
    name, _, number = kind.rpartition(" ")
    return mark_of(kind), places_of(name, said or "", int(number))


async def page_in_buffers(connection: asyncpg.Connection, relation: Relation, block: int) -> bytes | None:
    """The page as a client would read it; None when the relation is not of this database, or ends before it."""
    found = await connection.fetchval(_PAGE, relation.tablespace, relation.database, relation.number, block)
    return None if found is None else bytes(found)


async def heap_records(
    connection: asyncpg.Connection, relation: Relation, block: int, start_lsn: int, end_lsn: int
) -> list[HeapRecord]:
    """Every record on one heap block in [start, end), in order (16 and newer)."""
    rows = await connection.fetch(_HEAP, start_lsn, end_lsn, *relation, block)
    return [
        HeapRecord(
            row["kind"],
            row["description"] or "",
            row["xid"],
            row["block_id"],
            row["blocks"] == 1,
            row["block_fpi_data"],
            row["block_data"],
            row["ends"],
        )
        for row in rows
    ]


async def last_record_end(connection: asyncpg.Connection, start_lsn: int, end_lsn: int) -> int:
    """Where the last whole record in [start, end) ends; 0 when there is none."""
    return int(await connection.fetchval(_LAST_END, start_lsn, end_lsn) or 0)


async def was_cut_off(connection: asyncpg.Connection, path: str, start_lsn: int, end_lsn: int) -> bool:
    """Whether WAL in [start, end) shortened the relation at `base/5/16397`: blocks behind its end come back empty."""
    return bool(await connection.fetchval(_CUT, start_lsn, end_lsn, path))


async def received_to(connection: asyncpg.Connection) -> int | None:
    """On a standby, how far WAL has been received; None on a primary, which writes it before anything that follows from it."""
    found = await connection.fetchval(_RECEIVED)
    return None if found is None else int(found)


async def written_to(connection: asyncpg.Connection) -> int:
    """How far WAL can be read here: what is flushed on a primary, what is replayed on a standby."""
    return int(await connection.fetchval(_WRITTEN) or 0)


async def is_committed(connection: asyncpg.Connection, relation: Relation) -> bool:
    """Whether a relation of this database has these files for everybody. One that is being built may lack pages that are in
    WAL already, past any checkpoint: src/backend/storage/smgr/bulk_write.c logs first and writes later, and syncs at the end."""
    return bool(await connection.fetchval(_COMMITTED, *relation))


async def read_refs_as_text(node: Node, timeline: int, start: int, end: int) -> tuple[list[Ref], int]:
    """The same through pg_waldump, without images, and where the last whole record ends (`start` when there is none).
    Raises ActionFailed, when that WAL is not here (any more) too."""
    text = await waldump(node, node.data_dir / "pg_wal", timeline, start, end)
    refs, read_to = parse_refs(text.splitlines())
    if not read_to and "could not" in text:
        raise ActionFailed(Reason.FAILED, f"pg_waldump said: {text.strip()[-200:]}")
    return refs, max(read_to, start)


def parse_refs(lines: Iterable[str]) -> tuple[list[Ref], int]:
    """Blocks of main forks in pg_waldump's lines, and where the last record ends. Anything else between them is passed over."""
    refs: list[Ref] = []
    last: re.Match[str] | None = None
    for line in lines:
        if "blkref #" not in line:
            last = _LINE.match(line) or last
            continue
        found = _LINE.match(line)
        if found is None:
            continue
        last, end = found, _end(found)
        for block in _BLOCK.finditer(line, found.end()):
            if (block["fork"] or "main") == "main":
                relation = _relation(block["rel"])
                refs.append(Ref(relation, int(block["block"]), end, mark_of(f"{found[1]} {found[5]} {block['id']}")))
    return refs, 0 if last is None else _end(last)


def _end(found: re.Match[str]) -> int:
    return record_end(int(found[3], 16) << 32 | int(found[4], 16), int(found[2]), f"{found[1]} {found[5]}")


@lru_cache(maxsize=1_000)
def _relation(text: str) -> Relation:
    tablespace, database, number = text.split("/")
    return Relation(int(tablespace), int(database), int(number))
