"""Which pages of a copy stay, which are written without their hints, and which must be fetched."""

from __future__ import annotations

from failover.drill.faults.damage import resealed
from replication.difference.hashes import canonical_hashes, parts
from replication.difference.pages_file import _alike
from replication.page import as_pages, damaged
from replication.page_size import PAGE_BYTES
from tests.unit.replication.test_canonical import NORMAL, XMIN_COMMITTED, page_with, tuple_of

FIRST = 70
PLAIN = bytes(page_with([(NORMAL, tuple_of())]))
HINTED = bytes(page_with([(NORMAL, tuple_of(0x0002 | XMIN_COMMITTED))]))
OTHER = bytes(page_with([(NORMAL, tuple_of(data=b"pAtient"))]))


def test_a_page_without_hints_stays_one_with_hints_or_damage_is_written_and_another_is_fetched() -> None:
    """The source has the same row on each, with hints of its own."""
    rotten = bytearray(resealed(PLAIN, FIRST + 2))
    rotten[4_000] ^= 1  # in the hole, which says nothing: but its checksum does not fit any more
    own = [resealed(PLAIN, FIRST), resealed(HINTED, FIRST + 1), bytes(rotten), resealed(OTHER, FIRST + 3)]
    blocks = [FIRST + number for number in range(4)]
    theirs = parts(canonical_hashes(HINTED * 4, blocks, is_main=True))
    found = _alike(as_pages(b"".join(own)), blocks, theirs)
    assert (found.alike, found.written) == ({0, 1, 2}, [1, 2])
    assert len(found.pages) == 2 * PAGE_BYTES
    assert damaged(as_pages(found.pages), FIRST + 1) == []
    assert parts(canonical_hashes(found.pages, blocks[1:3], is_main=True)) == theirs[1:3]
    assert found.pages[:PAGE_BYTES] == resealed(PLAIN, FIRST + 1)


def test_of_pages_that_are_all_others_none_is_written() -> None:
    theirs = parts(canonical_hashes(OTHER, [FIRST], is_main=True))
    assert _alike(as_pages(PLAIN), [FIRST], theirs) == (set(), [], b"")
