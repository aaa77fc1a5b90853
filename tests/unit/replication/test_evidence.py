"""The decoded header of a page that is kept."""

from __future__ import annotations

import struct

import numpy as np

from replication.evidence import header_of
from replication.page import as_pages, checksums
from replication.page_size import PAGE_BYTES


def test_a_header_tells_where_and_whether_it_fits() -> None:
    page = bytearray(PAGE_BYTES)
    struct.pack_into("<IIHHHHH", page, 0, 0, 0x1700F98, 0, 1, 60, 8000, 8192)
    (right,) = checksums(as_pages(bytes(page)), np.array([7], dtype=np.uint32))
    struct.pack_into("<H", page, 8, int(right))
    found = header_of(bytes(page), 7)
    assert (found.lsn, found.checksum_fits, found.lower, found.upper, found.is_zero) == (
        "0/1700F98",
        True,
        60,
        8000,
        False,
    )
    assert not header_of(bytes(page), 8).checksum_fits, "the block number is part of it"
    empty = header_of(bytes(PAGE_BYTES), 0)
    assert (empty.is_zero, empty.checksum_fits) == (True, True), "PostgreSQL takes it: the file was extended by it"
