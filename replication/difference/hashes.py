"""Hashes of pages: of their bytes, and of what WAL determines of them. 128 bits each. Pure."""

from __future__ import annotations

import hashlib

import numpy as np

from replication.canonical import canonical_pages
from replication.page import PAGE_BYTES, Pages, as_pages, checksums

HASH_BYTES = 16


def raw_hashes(data: bytes | memoryview) -> bytes:
    """One after the other, of each whole page."""
    view = memoryview(data)
    pages = len(view) // PAGE_BYTES
    return b"".join(
        hashlib.blake2b(view[at * PAGE_BYTES : (at + 1) * PAGE_BYTES], digest_size=HASH_BYTES).digest()
        for at in range(pages)
    )


def canonical_hashes(data: bytes, first_block: int, *, is_main: bool) -> bytes:
    """Of pages in canonical form, LSN included; PD_ALL_VISIBLE counts, since it must agree with the visibility map."""
    return raw_hashes(canonical(data, first_block, is_main=is_main).tobytes())


def canonical(data: bytes, first_block: int, *, is_main: bool) -> Pages:
    """The form itself, checksum zero; maps and pages of other access methods as they are, but for their checksum."""
    pages = as_pages(data)
    if is_main:
        _, pages = canonical_pages(pages, first_block, keep_all_visible=True)
    else:
        pages = pages.copy()
    pages[:, 8:10] = 0
    return pages


def sealed(pages: Pages, first_block: int) -> bytes:
    """The same with the checksums that PostgreSQL would give them; an empty page has none."""
    out = pages.copy()
    blocks = np.arange(first_block, first_block + len(out), dtype=np.uint32)
    right = checksums(out, blocks)
    used = out.any(axis=1)
    out[used, 8:10] = right[used].astype("<u2")[:, None].view(np.uint8)
    return out.tobytes()


def parts(hashes: bytes) -> list[bytes]:
    """Each of them."""
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
