"""What failing disks, controllers and memories make of a page. Pure: bytes in, bytes out; a seeded generator chooses where.

Layouts: src/include/storage/bufpage.h and itemid.h (line pointers), src/include/access/htup_details.h (HeapTupleHeaderData),
src/include/access/nbtree.h (BTPageOpaqueData).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import StrEnum
from random import Random
from typing import NamedTuple

import numpy as np

from replication.page import as_pages, checksums
from replication.page_size import PAGE_BYTES

_HEADER_BYTES = 24
_CHECKSUM_AT = 8
_POINTER_BYTES = 4
_NORMAL = 1
_HOFF_AT = 22
_XMAX_AT, _INFOMASK_AT, _XMAX_INVALID = 4, 20, 0x0800
_INDEX_HEADER_BYTES = 8
_BTREE_SPECIAL_BYTES = 16
_BTREE_FLAGS_AT = 12
_BTP_LEAF, _BTP_META, _BTP_DELETED = 1, 8, 4


class Damage(StrEnum):
    """Everything that can be done to a node's files, and to one page in its memory."""

    BIT_FLIP = "bit_flip"
    NOISE = "noise"
    ZEROED = "zeroed"
    STALE = "stale"
    SWAPPED = "swapped"
    OTHER_RELATION = "other_relation"
    SECOND_WRITE_LOST = "second_write_lost"
    TUPLE_ALTERED = "tuple_altered"
    ENTRY_ALTERED = "entry_altered"
    TOAST = "toast"
    VISIBILITY_MAP = "visibility_map"
    FREE_SPACE_MAP = "free_space_map"
    TRUNCATED = "truncated"
    MISSING = "missing"
    TRANSACTION_STATUS = "transaction_status"
    CONTROL_FILE = "control_file"
    CONTROL_FILE_STALE = "control_file_stale"
    WAL_SEGMENT = "wal_segment"
    MEMORY_BIT = "memory_bit"


LOUD = frozenset({Damage.BIT_FLIP, Damage.NOISE, Damage.TRUNCATED, Damage.MISSING, Damage.TOAST})
"""Whoever reads the whole table meets these."""


class Item(NamedTuple):
    """Where a tuple lies on its page."""

    offset: int
    length: int


def page_of(data: bytes, block: int) -> bytes:
    """One page of a file."""
    return data[block * PAGE_BYTES : (block + 1) * PAGE_BYTES]


def resealed(page: bytes, block: int) -> bytes:
    """The same with the checksum that PostgreSQL would give it there."""
    (checksum,) = checksums(as_pages(page), np.array([block], dtype=np.uint32))
    return page[:_CHECKSUM_AT] + struct.pack("<H", int(checksum)) + page[_CHECKSUM_AT + 2 :]


def items_of(page: bytes) -> list[Item]:
    """Its line pointers that point at a tuple. None for a page that is new."""
    (lower,) = struct.unpack_from("<H", page, 12)
    if not _HEADER_BYTES <= lower <= PAGE_BYTES:
        return []
    pointers = struct.unpack_from(f"<{(lower - _HEADER_BYTES) // _POINTER_BYTES}I", page, _HEADER_BYTES)
    return [Item(one & 0x7FFF, one >> 17) for one in pointers if one >> 15 & 3 == _NORMAL]


def live_items_of(page: bytes) -> list[Item]:
    """Its tuples that nobody has deleted or replaced, as far as the page itself tells (htup_details.h)."""
    return [item for item in items_of(page) if item.length > _HOFF_AT and not _is_deleted(page, item)]


def _is_deleted(page: bytes, item: Item) -> bool:
    (xmax,) = struct.unpack_from("<I", page, item.offset + _XMAX_AT)
    (infomask,) = struct.unpack_from("<H", page, item.offset + _INFOMASK_AT)
    return xmax != 0 and not infomask & _XMAX_INVALID


def live_blocks(data: bytes) -> list[int]:
    """Heap pages with at least one tuple that counts."""
    return [block for block, page in _pages(data) if live_items_of(page)]


def calls_more_visible(old: bytes, now: bytes) -> bool:
    """Whether a page of a visibility map, as it was, has a bit that is not set any more: only that misleads a reader."""
    return any(before & ~after for before, after in zip(old[_HEADER_BYTES:], now[_HEADER_BYTES:], strict=True))


def live_leaves(data: bytes) -> list[int]:
    """B-tree leaf pages with entries."""
    found = []
    for block, page in _pages(data):
        (special,) = struct.unpack_from("<H", page, 16)
        if special != PAGE_BYTES - _BTREE_SPECIAL_BYTES:
            continue
        (flags,) = struct.unpack_from("<H", page, special + _BTREE_FLAGS_AT)
        if flags & _BTP_LEAF and not flags & (_BTP_META | _BTP_DELETED) and items_of(page):
            found.append(block)
    return found


def bit_flipped(page: bytes, random: Random) -> bytes:
    """One bit of it, anywhere."""
    changed = bytearray(page)
    changed[random.randrange(len(page))] ^= 1 << random.randrange(8)
    return bytes(changed)


def noise(page: bytes, random: Random) -> bytes:
    """As many random bytes."""
    return random.randbytes(len(page))


def zeroed(page: bytes, _random: Random) -> bytes:
    """Nothing: PostgreSQL takes it for a page that was never written."""
    return bytes(len(page))


def tuple_altered(page: bytes, block: int, random: Random) -> bytes:
    """A letter or digit in a live heap tuple's data is another one, under a checksum that fits. A page without any: any byte."""
    places = [
        (at, letter)
        for item in live_items_of(page)
        for at, letter in enumerate(page[item.offset + page[item.offset + _HOFF_AT] : item.offset + item.length])
        for at in (item.offset + page[item.offset + _HOFF_AT] + at,)
        if chr(letter).isalnum() and letter < 128 and chr(page[at - 1]).isalnum()
    ]
    return _altered(page, block, places, random)


def entry_altered(page: bytes, block: int, random: Random) -> bytes:
    """A byte of an index entry's key is another one, under a checksum that fits. The first entry may be the high key."""
    places = [
        (at, page[at])
        for item in items_of(page)[1:] or items_of(page)
        for at in range(item.offset + _INDEX_HEADER_BYTES, item.offset + item.length)
    ]
    return _altered(page, block, places, random)


def _altered(page: bytes, block: int, places: list[tuple[int, int]], random: Random) -> bytes:
    changed = bytearray(page)
    at, letter = random.choice(places) if places else (random.randrange(_HEADER_BYTES, len(page)), 0)
    others = b"0123456789abcdefghijklmnopqrstuvwxyz".replace(bytes([letter]), b"")
    changed[at] = random.choice(others)
    if bytes(changed) == page:
        changed[at] ^= 1
    return resealed(bytes(changed), block)


def _pages(data: bytes) -> Iterator[tuple[int, bytes]]:
    for block in range(len(data) // PAGE_BYTES):
        yield block, page_of(data, block)
