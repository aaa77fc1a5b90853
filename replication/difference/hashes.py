"""Hashes of pages: of their bytes, and of what WAL determines of them. 128 bits each, of XXH3: against accidents, not against
somebody who makes two pages alike on purpose, and who could write to the disks as well. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_digest

from replication.canonical import canonical_pages
from replication.page import Pages, as_pages, checksums
from replication.page_size import PAGE_BYTES

HASH_BYTES = 16


def raw_hashes(data: bytes | bytearray | memoryview) -> bytes:
    """One after the other, of each whole page."""
    view = memoryview(data)
    starts = range(0, len(view) - len(view) % PAGE_BYTES, PAGE_BYTES)
    return b"".join([xxh3_128_digest(view[at : at + PAGE_BYTES]) for at in starts])


def canonical_hashes(data: bytes | Pages, blocks: list[int], *, is_main: bool) -> bytes:
    """Of pages with these numbers, in canonical form, LSN included; PD_ALL_VISIBLE counts, since it must agree with the
    visibility map."""
    return raw_hashes(canonical(data, blocks, is_main=is_main)[0].reshape(-1).data)


def canonical(data: bytes | Pages, blocks: list[int], *, is_main: bool) -> tuple[Pages, NDArray[np.bool_]]:
    """The form itself, checksum zero, and which pages bore hints; maps and pages of other access methods are as they are, but
    for their checksum."""
    pages = as_pages(data) if isinstance(data, bytes) else data
    if is_main:
        numbers = np.array(blocks[: len(pages)], dtype=np.int64)
        _, pages, hinted = canonical_pages(pages, numbers, keep_all_visible=True)
    else:
        pages, hinted = pages.copy(), np.zeros(len(pages), dtype=np.bool_)
    pages[:, 8:10] = 0
    return pages, hinted


def sealed(pages: Pages, blocks: list[int]) -> bytes:
    """The same with the checksums that PostgreSQL would give them; an empty page has none."""
    out = pages.copy()
    right = checksums(out, np.array(blocks, dtype=np.uint32))
    used = out.any(axis=1)
    out[used, 8:10] = right[used].astype("<u2")[:, None].view(np.uint8)
    return out.tobytes()


def parts(hashes: bytes) -> list[bytes]:
    """Each of them."""
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
