"""A rebuild that copies only what differs, from whatever was done to the old copy: the result is the source's, bit rot or not."""

from __future__ import annotations

import asyncio
import re
import struct
from pathlib import Path

import asyncpg

from failover.drill.faults.damage import page_of, resealed
from replication import actions
from replication.page import as_pages, damaged
from replication.page_size import PAGE_BYTES
from replication.scrub.files import relation_files
from tests.nodes import NodeUnderTest, Pair, two_nodes

ROWS = 20_000
_HEAP = "SELECT count(*) FROM verify_heapam('appointment', check_toast => true)"
_XMIN_COMMITTED, _XMIN_INVALID = 0x0100, 0x0200


async def filled(pair: Pair) -> asyncpg.Connection:
    await pair.stream()
    primary = await pair.a.connect()
    await primary.execute("INSERT INTO appointment SELECT i, repeat('x', 150) FROM generate_series(1, $1::int) i", ROWS)
    await primary.execute("VACUUM appointment")
    await replayed(primary, pair.b)
    return primary


async def replayed(primary: asyncpg.Connection, standby: NodeUnderTest) -> None:
    await primary.execute("CHECKPOINT")
    lsn = await primary.fetchval("SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint")
    await standby.wait(lambda report: (report.replay_lsn or 0) >= lsn)
    other = await standby.connect()
    await other.execute("CHECKPOINT")
    await other.close()


async def rebuilt(pair: Pair, nonce: str) -> str:
    """b, by differences, and streaming again: what the agent said of it."""
    await pair.a.act(actions.EnsureSlot("locum_b"))
    op = actions.Rebuild(source="a", slot="locum_b", nonce=nonce, fast_checkpoint=True, only_differences=True)
    said = (await pair.b.act(op)).sentence
    name = f"b_{nonce}"
    await pair.b.act(actions.StartStandby(name=name, upstream="a", slot="locum_b"))
    await pair.a.wait(lambda report: any(s.name == name and s.state == "streaming" for s in report.walsenders))
    return said


def mark_committed(path: Path, block: int, number: int) -> None:
    """The hint that a transaction committed, which no other node ever heard of."""
    data = bytearray(page_of(path.read_bytes(), block))
    (pointer,) = struct.unpack_from("<I", data, 24 + 4 * (number - 1))
    at = (pointer & 0x7FFF) + 20
    (info,) = struct.unpack_from("<H", data, at)
    struct.pack_into("<H", data, at, info & ~_XMIN_INVALID | _XMIN_COMMITTED)
    write(path, block, resealed(bytes(data), block))


def write(path: Path, block: int, page: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(block * PAGE_BYTES)
        file.write(page)


def spoil(path: Path, block: int) -> None:
    """A byte of the page; its LSN stays: pg_basebackup believes a page whose LSN is newer than the backup, whatever is in it."""
    page = bytearray(page_of(path.read_bytes(), block))
    page[6_000] ^= 0x40
    write(path, block, bytes(page))


def bad_pages(data_dir: Path) -> list[str]:
    return [
        f"{file.path} {block}"
        for file in relation_files(data_dir)
        for block in damaged(as_pages((data_dir / file.path).read_bytes()), file.first_block)
    ]


async def test_a_damaged_and_outdated_copy_becomes_the_sources_again(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        primary = await filled(pair)
        path = await primary.fetchval("SELECT pg_relation_filepath('appointment')")
        index = await primary.fetchval("SELECT pg_relation_filepath('appointment_pkey')")
        await primary.execute("CREATE TABLE dropped AS SELECT * FROM appointment LIMIT 500")
        await replayed(primary, pair.b)
        await pair.b.act(actions.Fence())
        await primary.execute("DROP TABLE dropped")
        await primary.execute("CREATE TABLE made AS SELECT i FROM generate_series(1, 5000) i")
        await primary.execute("UPDATE appointment SET note = 'newer' WHERE id BETWEEN 10 AND 60")
        data_dir = pair.b.settings.data_dir
        heap = data_dir / path
        write(heap, 20, b"\xa5" * PAGE_BYTES)
        write(heap, 30, bytes(PAGE_BYTES))
        write(heap, 40, resealed(page_of(heap.read_bytes(), 41), 40))
        write(data_dir / index, 3, b"\x5a" * PAGE_BYTES)
        with heap.open("ab") as file:
            file.write(b"\x11" * 3 * PAGE_BYTES)
        (data_dir / "base" / "stray").write_bytes(b"stray")
        (data_dir / "pg_xact" / "0000").write_bytes(bytes(PAGE_BYTES))
        said = await rebuilt(pair, "n2")
        found = re.search(r"(\d+) of (\d+) pages differed", said)
        assert found is not None, said
        assert 5 <= int(found[1]) < 0.2 * int(found[2]), said
        standby = await pair.b.connect()
        sql = "SELECT md5(string_agg(id || note, ',' ORDER BY id)) FROM appointment"
        await replayed(primary, pair.b)
        assert await standby.fetchval(sql) == await primary.fetchval(sql)
        assert await standby.fetchval("SELECT count(*) FROM made") == 5_000
        assert await standby.fetchval(_HEAP) == 0
        await standby.execute("SELECT bt_index_check('appointment_pkey', true)")
        assert not (data_dir / "base" / "stray").exists()
        await standby.close()
        await primary.close()
        assert await asyncio.to_thread(bad_pages, data_dir) == []


async def test_a_hint_of_a_commit_that_never_came_over_is_not_kept(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        primary = await filled(pair)
        path = await primary.fetchval("SELECT pg_relation_filepath('appointment')")
        transaction = primary.transaction()
        await transaction.start()
        await primary.execute("INSERT INTO appointment VALUES (999999, 'never acknowledged')")
        place = await primary.fetchval("SELECT ctid::text FROM appointment WHERE id = 999999")
        await transaction.rollback()
        block, number = (int(part) for part in place.strip("()").split(","))
        await replayed(primary, pair.b)
        await pair.b.act(actions.Fence())
        heap = pair.b.settings.data_dir / path
        await asyncio.to_thread(mark_committed, heap, block, number)
        said = await rebuilt(pair, "n3")
        assert " 0 in hints alone" not in said, said
        standby = await pair.b.connect()
        await standby.execute("SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off")
        assert await standby.fetchval("SELECT count(*) FROM appointment WHERE id = 999999") == 0
        await standby.close()
        await primary.close()


async def test_what_cannot_be_copied_by_differences_is_copied_whole(tmp_path: Path) -> None:
    """A page that is damaged on the source makes both ways fail, and the copy stays half-built: no damage is copied."""
    async with two_nodes(tmp_path) as pair:
        primary = await filled(pair)
        path = await primary.fetchval("SELECT pg_relation_filepath('appointment')")
        await pair.b.act(actions.Fence())
        await asyncio.to_thread(spoil, pair.a.settings.data_dir / path, 7)
        op = actions.Rebuild(source="a", slot="locum_b", nonce="n4", fast_checkpoint=True, only_differences=True)
        result = await pair.b.act(op, ok=False)
        assert "checksum" in result.sentence or "damaged" in result.sentence, result
        assert (await pair.b.report()).data == "half_built"
        await primary.close()
