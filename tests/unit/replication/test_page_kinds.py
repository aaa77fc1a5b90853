"""Pages of indexes other than B-trees: told by the mark that ends them, and compared by what WAL determines of them."""

from __future__ import annotations

import struct

import pytest

from replication.canonical import canonical_pages
from replication.page import as_pages
from replication.page_kinds import NARROW_SPECIAL, has_rows_or_keys, headers, kinds
from replication.page_size import PAGE_BYTES
from tests.unit.replication.test_canonical import BTREE_SPECIAL, NORMAL, digest, gist_page, opaque, page_with, tuple_of

DATA, LEAF, DELETED, META = 0x01, 0x02, 0x04, 0x08


def gin_page(flags: int, *, key: bytes = b"a word's postings", right: int = 7) -> bytearray:
    return page_with([(NORMAL, key)], special=NARROW_SPECIAL, tail=struct.pack("<IHH", right, 0, flags))


def postings(*, of: bytes = b"postings", behind: bytes = b"") -> bytearray:
    """A leaf of a posting tree: what follows the header is no line pointer."""
    page = page_with([], special=NARROW_SPECIAL, tail=struct.pack("<IHH", 7, 0, DATA | LEAF | 0x80))
    page[24 : 24 + len(of)] = of
    struct.pack_into("<H", page, 12, 24 + len(of))
    page[4_000 : 4_000 + len(behind)] = behind
    return page


def spgist_page(flags: int = 0x04, *, key: bytes = b"a node", placeholders: int = 0) -> bytearray:
    tail = struct.pack("<HHHH", flags, 0, placeholders, 0xFF82)
    return page_with([(NORMAL, key)], special=NARROW_SPECIAL, tail=tail)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (page_with([(NORMAL, tuple_of())]), "heap"),
        (page_with([], special=BTREE_SPECIAL, tail=opaque(0x01)), "btree"),
        (gist_page(0x01), "gist"),
        (gin_page(LEAF), "other"),
        (postings(), "other"),
        (spgist_page(), "other"),
        (gin_page(DELETED), None),
        (spgist_page(0x01), None),
        (page_with([], special=BTREE_SPECIAL, tail=opaque(0x01, 0xFF80)), None),  # hash
        (page_with([], special=NARROW_SPECIAL, tail=struct.pack("<HHHH", 0, 0, 0, 0xF093)), None),  # BRIN
        (page_with([], special=NARROW_SPECIAL, tail=struct.pack("<IHH", 0x1717, 0, 0)), None),  # a sequence
        (bytearray(PAGE_BYTES), None),
    ],
)
def test_a_page_is_of_one_kind(page: bytearray, expected: str | None) -> None:
    pages = as_pages(bytes(page))
    found = kinds(pages, headers(pages))
    named = [kind for kind in ("heap", "btree", "gist", "other") if getattr(found, kind)[0]]
    assert named == ([] if expected is None else [expected])
    assert (digest(page) is None) is (expected is None)
    assert has_rows_or_keys(bytes(page)) is (expected in ("heap", "btree"))


@pytest.mark.parametrize("page", [gin_page(LEAF), spgist_page()])
def test_hints_and_the_hole_of_an_index_page_make_no_difference(page: bytearray) -> None:
    other = bytearray(page)
    other[8:10] = b"\x12\x34"
    other[10] |= 0x07
    other[4_000:4_100] = b"x" * 100
    assert digest(page) == digest(other) is not None


def test_what_lies_behind_the_postings_makes_no_difference_and_they_do() -> None:
    assert digest(postings()) == digest(postings(behind=b"old ones"))
    assert len({digest(page) for page in (postings(), postings(of=b"pOstings"), postings(of=b"postings!"))}) == 3


@pytest.mark.parametrize(
    ("page", "others"),
    [
        (gin_page(LEAF), [gin_page(LEAF, key=b"a word's postingS"), gin_page(LEAF, right=8), gin_page(LEAF | 0x40)]),
        (spgist_page(), [spgist_page(key=b"a nodE"), spgist_page(placeholders=1), spgist_page(0x0C)]),
    ],
)
def test_what_wal_determines_of_an_index_page_makes_one(page: bytearray, others: list[bytearray]) -> None:
    assert len({digest(one) for one in (page, *others)}) == len(others) + 1


@pytest.mark.parametrize("page", [gin_page(LEAF), spgist_page(), postings(behind=b"noise")])
def test_it_is_never_written_in_that_form(page: bytearray) -> None:
    found = canonical_pages(as_pages(bytes(page)), 0, keep_all_visible=True)
    assert found.pages.tobytes() == bytes(page) and not found.fit[0]
