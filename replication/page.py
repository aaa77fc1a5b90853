"""A PostgreSQL page: its header, its checksum, whether it is whole. Pure; many pages at once, with NumPy.

Sources: src/include/storage/bufpage.h (PageHeaderData), src/include/storage/checksum_impl.h (pg_checksum_page),
src/backend/storage/page/bufpage.c (PageIsVerified).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replication.page_size import PAGE_BYTES

_LANES = 32
_ROUNDS = PAGE_BYTES // 4 // _LANES
_PRIME = np.uint32(16_777_619)
_HEADER_BYTES = 24
_FLAGS_MAX = 0x0007
_ALIGN = 8
_OFFSETS = np.array(
    [
        0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
        0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
        0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
        0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
    ],
    dtype=np.uint32,
)  # fmt: skip

Pages = NDArray[np.uint8]
"""Shape (n, PAGE_BYTES)."""


def as_pages(data: bytes | bytearray | memoryview) -> Pages:
    """Whole pages of these bytes; what is left at the end of a torn file is not among them."""
    whole = len(data) // PAGE_BYTES
    return np.frombuffer(data, dtype=np.uint8, count=whole * PAGE_BYTES).reshape(whole, PAGE_BYTES)


def checksums(pages: Pages, blocks: NDArray[np.uint32]) -> NDArray[np.uint16]:
    """pg_checksum_page of each page, whose number within its relation is in `blocks`."""
    rows = pages.view("<u4").reshape(len(pages), _ROUNDS, _LANES)
    words = np.array(rows.transpose(1, 0, 2), order="C")  # a copy in which a round of all pages lies together
    words[0, :, 2] &= np.uint32(0xFFFF0000)  # pd_checksum, bytes 8 and 9
    sums = np.broadcast_to(_OFFSETS, (len(pages), _LANES)).copy()
    shifted = np.empty_like(sums)
    for one in words:
        np.bitwise_xor(sums, one, out=sums)
        _mix(sums, shifted)
    _mix(sums, shifted)  # two rounds of zeros
    _mix(sums, shifted)
    folded = np.bitwise_xor.reduce(sums, axis=1) ^ blocks
    return np.asarray(folded % np.uint32(65_535) + np.uint32(1), dtype=np.uint16)


def damaged(pages: Pages, first_block: int) -> list[int]:
    """Numbers of the pages that PostgreSQL would refuse to read. An all-zero page is one that was never written."""
    return damaged_among(pages, np.arange(first_block, first_block + len(pages), dtype=np.uint32))


def damaged_among(pages: Pages, blocks: NDArray[np.uint32]) -> list[int]:
    """The same of pages that are no neighbours, with their numbers."""
    if not len(pages):
        return []
    header = pages[:, :_HEADER_BYTES].copy().view("<u2")
    checksum, flags, lower, upper, special = (header[:, field] for field in (4, 5, 6, 7, 8))
    whole = (
        (checksums(pages, blocks) == checksum)
        & (flags <= _FLAGS_MAX)
        & (lower <= upper)
        & (upper <= special)
        & (special <= PAGE_BYTES)
        & (special % _ALIGN == 0)
        & (upper != 0)
    )
    new = upper == 0
    new[new] = ~pages[new].any(axis=1)
    return [int(block) for block in blocks[~(whole | new)]]


def lsns(pages: Pages) -> NDArray[np.uint64]:
    """pd_lsn of each page."""
    halves = pages[:, :8].copy().view("<u4").astype(np.uint64)
    return (halves[:, 0] << np.uint64(32)) | halves[:, 1]


def lsn_of(page: bytes) -> int:
    """pd_lsn of one page."""
    return int.from_bytes(page[:4], "little") << 32 | int.from_bytes(page[4:8], "little")


def _mix(sums: NDArray[np.uint32], shifted: NDArray[np.uint32]) -> None:
    """CHECKSUM_COMP after the word has come in, in place; `shifted` is room of the same shape."""
    np.right_shift(sums, np.uint32(17), out=shifted)
    np.multiply(sums, _PRIME, out=sums)
    np.bitwise_xor(sums, shifted, out=sums)
