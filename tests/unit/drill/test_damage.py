"""What is done to a page: what PostgreSQL's checksum would see, and what it would not."""

from __future__ import annotations

import struct
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from failover.drill.faults import damage
from failover.drill.faults.damage import Item
from replication.page import as_pages, damaged, lsn_of
from replication.page_size import PAGE_BYTES

HOFF = 24


def heap_page(block: int, rows: list[bytes], lsn: int = 0x50) -> bytes:
    """A page with a heap tuple of a 24-byte header for each row, and its checksum."""
    page = bytearray(PAGE_BYTES)
    end, pointers = PAGE_BYTES, b""
    for row in rows:
        length = HOFF + len(row)
        end -= length + -length % 8
        page[end : end + length] = bytes(22) + bytes([HOFF, 0]) + row
        pointers += struct.pack("<I", end | 1 << 15 | length << 17)
    page[24 : 24 + len(pointers)] = pointers
    header = struct.pack(
        "<IIHHHHHHI", lsn >> 32, lsn & 0xFFFFFFFF, 0, 0, 24 + len(pointers), end, PAGE_BYTES, PAGE_BYTES | 4, 0
    )
    page[:24] = header
    return damage.resealed(bytes(page), block)


BLOCKS = st.integers(0, 2**31)
ROWS = st.lists(st.text("abcxyz0189", min_size=4, max_size=60).map(str.encode), min_size=1, max_size=20)


def bad(page: bytes, block: int) -> bool:
    return damaged(as_pages(page), block) != []


@given(block=BLOCKS, rows=ROWS)
def test_items_and_lsn_are_read_as_they_were_written(block: int, rows: list[bytes]) -> None:
    page = heap_page(block, rows, lsn=0x1_0000_0028)
    assert lsn_of(page) == 0x1_0000_0028
    assert [item.length - HOFF for item in damage.items_of(page)] == [len(row) for row in rows]
    assert not bad(page, block)
    assert damage.live_blocks(bytes(PAGE_BYTES) + page) == [1]


@given(block=BLOCKS, rows=ROWS, seed=st.integers(0, 1 << 16))
def test_an_altered_row_differs_in_one_letter_and_its_checksum_fits(block: int, rows: list[bytes], seed: int) -> None:
    page = heap_page(block, rows)
    altered = damage.tuple_altered(page, block, Random(seed))
    places = [at for at in range(24, PAGE_BYTES) if altered[at] != page[at]]
    (at,) = places
    assert any(item.offset + HOFF <= at < item.offset + item.length for item in damage.items_of(page))
    assert not bad(altered, block)
    assert damage.tuple_altered(page, block, Random(seed)) == altered, "the same seed does the same"


@given(block=BLOCKS, rows=ROWS, seed=st.integers(0, 1 << 16))
def test_an_altered_entry_fits_its_checksum_and_leaves_the_pointers_alone(
    block: int, rows: list[bytes], seed: int
) -> None:
    page = heap_page(block, rows)
    altered = damage.entry_altered(page, block, Random(seed))
    assert altered != page
    assert not bad(altered, block)
    assert damage.items_of(altered) == damage.items_of(page)


def test_what_a_checksum_sees() -> None:
    page = heap_page(7, [b"booked dr-05"] * 5)
    for seed in range(200):
        assert bad(damage.bit_flipped(page, Random(seed)), 7)
        assert bad(damage.noise(page, Random(seed)), 7)
    assert not bad(damage.zeroed(page, Random(1)), 7), "PostgreSQL takes it for new"
    assert bad(page, 8), "in another place"
    assert not bad(damage.resealed(page, 8), 8)


def test_leaves_of_a_btree_are_told_from_other_pages() -> None:
    def index_page(flags: int) -> bytes:
        page = bytearray(heap_page(1, [b"key"]))
        special = PAGE_BYTES - 16
        struct.pack_into("<H", page, 16, special)
        struct.pack_into("<H", page, special + 12, flags)
        return bytes(page)

    leaf, meta, inner, deleted = 1, 8, 0, 1 | 4
    data = b"".join(index_page(flags) for flags in (meta, inner, leaf, deleted)) + heap_page(4, [b"row"])
    assert damage.live_leaves(data) == [2]


def test_a_page_without_a_sane_header_has_no_items() -> None:
    assert damage.items_of(bytes(PAGE_BYTES)) == []
    assert damage.items_of(b"\xff" * PAGE_BYTES) == []
    assert Item(1, 2) == (1, 2)


def test_a_visibility_map_as_it_was_is_damage_only_where_it_calls_more_rows_visible() -> None:
    few, more = bytearray(PAGE_BYTES), bytearray(PAGE_BYTES)
    few[24], more[24] = 0b0001, 0b0011
    more[0] = 7  # another LSN is none of it
    assert damage.calls_more_visible(bytes(more), bytes(few))
    assert not damage.calls_more_visible(bytes(few), bytes(more))
    assert not damage.calls_more_visible(bytes(few), bytes(few))
