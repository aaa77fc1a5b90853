"""Page headers and checksums, against a page whose checksum PostgreSQL made (see also the integration test)."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from replication.page import as_pages, checksums, damaged, lsns
from replication.page_size import PAGE_BYTES


def whole_page(block: int, fill: int = 7) -> bytearray:
    """A page with a sane header and the checksum for this block."""
    page = bytearray(PAGE_BYTES)
    page[0:8] = (1).to_bytes(4, "little") + (0x50).to_bytes(4, "little")
    page[12:14] = (24).to_bytes(2, "little")
    page[14:16] = (8000).to_bytes(2, "little")
    page[16:18] = PAGE_BYTES.to_bytes(2, "little")
    page[18:20] = (PAGE_BYTES | 4).to_bytes(2, "little")
    page[8000:] = bytes([fill]) * (PAGE_BYTES - 8000)
    checksum = checksums(as_pages(page), np.array([block], dtype=np.uint32))[0]
    page[8:10] = int(checksum).to_bytes(2, "little")
    return page


def test_a_whole_page_passes_and_only_at_its_own_block() -> None:
    page = whole_page(5)
    assert damaged(as_pages(page), 5) == []
    assert damaged(as_pages(page), 6) == [6]
    assert lsns(as_pages(page)).tolist() == [(1 << 32) | 0x50]


def test_an_all_zero_page_was_never_written_and_a_header_of_zeros_over_content_is_damage() -> None:
    assert damaged(as_pages(bytes(PAGE_BYTES)), 0) == []
    page = bytearray(PAGE_BYTES)
    page[5000] = 1
    assert damaged(as_pages(page), 0) == [0]


@given(position=st.integers(0, PAGE_BYTES - 1), bit=st.integers(0, 7), block=st.integers(0, 2**32 - 2))
def test_any_flipped_bit_is_seen(position: int, bit: int, block: int) -> None:
    page = whole_page(block)
    page[position] ^= 1 << bit
    assert damaged(as_pages(page), block) == [block]


def test_pages_are_judged_one_by_one_and_half_a_page_is_left_out() -> None:
    pages = whole_page(10) + whole_page(11) + whole_page(12)
    pages[PAGE_BYTES + 8100] ^= 1
    assert damaged(as_pages(pages + b"half"), 10) == [11]
    assert damaged(as_pages(b""), 0) == []
