"""The canonical form: what is only a hint makes no difference, and everything that WAL determines does."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.canonical import canonical_pages, digests
from replication.page import as_pages
from replication.page_size import PAGE_BYTES

XMIN_COMMITTED, XMIN_INVALID, XMAX_COMMITTED, XMAX_INVALID, COMBOCID = 0x0100, 0x0200, 0x0400, 0x0800, 0x0020
HEAP_SPECIAL, BTREE_SPECIAL = PAGE_BYTES, PAGE_BYTES - 16
NORMAL, DEAD = 1, 3


def page_with(
    items: list[tuple[int, bytes]], *, special: int = HEAP_SPECIAL, tail: bytes = b"", lsn: int = 7
) -> bytearray:
    """A page with these items (flag, bytes), laid out as PageAddItem does."""
    page = bytearray(PAGE_BYTES)
    upper = special
    for number, (flag, item) in enumerate(items):
        upper -= (len(item) + 7) & ~7
        page[upper : upper + len(item)] = item
        struct.pack_into("<I", page, 24 + 4 * number, upper | flag << 15 | len(item) << 17)
    struct.pack_into("<IIHHHHHHI", page, 0, 0, lsn, 0, 0, 24 + 4 * len(items), upper, special, PAGE_BYTES | 4, 0)
    page[special:] = tail
    return page


def tuple_of(info: int = 0x0002, *, xmax: int = 0, cid: int = 0, data: bytes = b"patient") -> bytes:
    return struct.pack("<IIIHHHHHB", 700, xmax, cid, 0, 0, 1, 3, info, 24) + b"\0" + data


def opaque(flags: int, cycle: int = 0) -> bytes:
    return struct.pack("<IIIHH", 0, 0, 0, flags, cycle)


def digest(page: bytes | bytearray, block: int = 0) -> bytes | None:
    return digests(as_pages(bytes(page)), block)[0]


@pytest.mark.parametrize(
    "info", [XMIN_COMMITTED, XMIN_INVALID, XMAX_INVALID | XMIN_COMMITTED, XMAX_COMMITTED, COMBOCID, XMAX_INVALID]
)
def test_hint_bits_make_no_difference(info: int) -> None:
    plain = page_with([(NORMAL, tuple_of(xmax=800)), (NORMAL, tuple_of())])
    hinted = page_with([(NORMAL, tuple_of(0x0002 | info, xmax=800)), (NORMAL, tuple_of())])
    assert digest(plain) == digest(hinted) is not None


def test_what_wal_determines_makes_one() -> None:
    plain = page_with([(NORMAL, tuple_of(xmax=0))])
    others = [
        page_with([(NORMAL, tuple_of(xmax=0, data=b"pAtient"))]),
        page_with([(NORMAL, tuple_of(xmax=801))]),
        page_with([(NORMAL, tuple_of(0x0002 | XMIN_COMMITTED | XMIN_INVALID))]),  # frozen
        page_with([(NORMAL, tuple_of(0x0002 | XMAX_INVALID))]),
        page_with([(NORMAL, tuple_of(0x0082))]),  # XMAX_LOCK_ONLY
        page_with([(NORMAL, tuple_of()), (NORMAL, tuple_of())]),
    ]
    found = {digest(page) for page in (plain, *others)}
    assert len(found) == len(others) + 1


def test_command_ids_the_hole_padding_and_the_headers_hints_make_none() -> None:
    plain = page_with([(NORMAL, tuple_of(data=b"odd"))])
    other = page_with([(NORMAL, tuple_of(cid=9, data=b"odd"))], lsn=99)
    other[4_000:4_100] = b"x" * 100  # the hole
    other[PAGE_BYTES - 5 : PAGE_BYTES - 4] = b"p"  # padding behind the tuple
    other[8:10] = b"\x12\x34"
    other[10] |= 0x07
    other[20:24] = b"\x01\x02\x03\x04"
    assert digest(plain) == digest(other)


def test_a_speculative_tuple_points_at_itself_on_a_replay() -> None:
    token = bytearray(tuple_of())
    struct.pack_into("<HHH", token, 12, 0, 77, 0xFFFE)
    own = bytearray(tuple_of())
    struct.pack_into("<HHH", own, 12, 1, 5, 1)
    assert digest(page_with([(NORMAL, bytes(token))]), 65_541) == digest(page_with([(NORMAL, bytes(own))]), 65_541)


def test_dead_marks_garbage_and_cycle_ids_of_an_index_make_none() -> None:
    entry = struct.pack("<HHHH", 0, 3, 1, 16) + b"key" + b"\0" * 5
    leaf = page_with([(NORMAL, entry), (NORMAL, entry)], special=BTREE_SPECIAL, tail=opaque(0x01))
    killed = page_with([(DEAD, entry), (NORMAL, entry)], special=BTREE_SPECIAL, tail=opaque(0x01 | 0x40 | 0x20, 9))
    other = page_with(
        [(NORMAL, entry), (NORMAL, entry[:8] + b"kay" + entry[11:])], special=BTREE_SPECIAL, tail=opaque(0x01)
    )
    assert digest(leaf) == digest(killed) is not None
    assert digest(leaf) != digest(other)


def test_other_pages_have_no_form_here() -> None:
    spgist = page_with([], special=BTREE_SPECIAL, tail=opaque(0x01, 0xFF82))
    gone = page_with([], special=BTREE_SPECIAL, tail=opaque(0x05))
    gone_gist = page_with([], special=BTREE_SPECIAL, tail=opaque(0x03, 0xFF81))
    assert [digest(page) for page in (bytes(PAGE_BYTES), spgist, gone, gone_gist)] == [None] * 4
    same = canonical_pages(as_pages(bytes(spgist)), 0).pages
    assert same.tobytes() == bytes(spgist)


def gist_page(flags: int, *, flag: int = NORMAL, nsn: int = 0, rightlink: int = 0, key: bytes = b"when") -> bytearray:
    tail = struct.pack("<IIIHH", 0, nsn, rightlink, flags, 0xFF81)
    return page_with([(NORMAL, b"first key"), (flag, key)], special=BTREE_SPECIAL, tail=tail)


@pytest.mark.parametrize(
    "other", [gist_page(0x09), gist_page(0x11), gist_page(0x01, nsn=77), gist_page(0x01, flag=DEAD)]
)
def test_what_a_gist_index_sets_without_wal_makes_no_difference(other: bytearray) -> None:
    assert digest(gist_page(0x01)) == digest(other) is not None


@pytest.mark.parametrize("other", [gist_page(0x01, key=b"whem"), gist_page(0x01, rightlink=3), gist_page(0x05)])
def test_what_wal_determines_of_a_gist_index_makes_one(other: bytearray) -> None:
    assert digest(gist_page(0x01)) != digest(other) is not None


def test_a_gist_page_is_never_written_in_that_form() -> None:
    """A search tells by the LSN of the last split whether it must go to the right (gist/README, concurrency control)."""
    page = gist_page(0x19, nsn=77)
    found = canonical_pages(as_pages(bytes(page)), 0, keep_all_visible=True)
    assert found.pages.tobytes() == bytes(page) and not found.fit[0] and not found.hinted[0]


@pytest.mark.parametrize(("lower", "upper"), [(65_000, 65_100), (9_000, 9_100), (4_000, 3_000), (10, 8_000)])
def test_noise_that_looks_like_a_heap_page_is_given_as_it_is(lower: int, upper: int) -> None:
    page = bytearray(page_with([(NORMAL, tuple_of())]))
    struct.pack_into("<HH", page, 12, lower, upper)
    fit, same, hinted = canonical_pages(as_pages(bytes(page)), 0)
    assert (bool(fit[0]), bool(hinted[0]), same.tobytes()) == (False, False, bytes(page))


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (page_with([(NORMAL, tuple_of())]), False),
        (page_with([(NORMAL, tuple_of(cid=9))]), False),
        (page_with([(NORMAL, tuple_of(0x0002 | XMIN_COMMITTED | XMIN_INVALID))]), False),
        (page_with([(NORMAL, tuple_of()), (NORMAL, tuple_of(0x0002 | XMIN_COMMITTED))]), True),
        (page_with([(NORMAL, tuple_of(0x0002 | XMAX_COMMITTED, xmax=800))]), True),
        (page_with([(NORMAL, tuple_of())], special=BTREE_SPECIAL, tail=opaque(0x01 | 0x40)), False),
        (page_with([(DEAD, tuple_of())], special=BTREE_SPECIAL, tail=opaque(0x01)), True),
    ],
)
def test_a_page_bears_hints_when_it_says_more_than_wal(page: bytearray, expected: bool) -> None:
    neighbours = bytes(page_with([(NORMAL, tuple_of())]))
    found = canonical_pages(as_pages(neighbours + bytes(page) + neighbours), 0).hinted
    assert found.tolist() == [False, expected, False]


@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 0]), st.binary(min_size=24, max_size=60)), max_size=30),
    st.integers(0, 99),
)
def test_the_form_of_a_form_is_itself_and_pages_do_not_touch_each_other(
    items: list[tuple[int, bytes]], seed: int
) -> None:
    random = np.random.default_rng(seed)
    pages = bytes(page_with(items)) + random.bytes(PAGE_BYTES) + bytes(page_with(items[::-1]))
    fit, once, _ = canonical_pages(as_pages(pages), 0)
    _, twice, hinted = canonical_pages(once, 0)
    assert not hinted.any()
    assert twice.tobytes() == once.tobytes()
    assert fit[0] and fit[2]
    alone = canonical_pages(as_pages(pages[:PAGE_BYTES]), 0).pages
    assert alone[0].tobytes() == once[0].tobytes()
