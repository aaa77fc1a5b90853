"""Hashes of pages: of their bytes, and of what WAL determines of them. 128 bits each. Pure."""

from __future__ import annotations

import hashlib

import numpy as np

from replication.canonical import canonical_pages
from replication.page import PAGE_BYTES, Pages, as_pages, checksums

HASH_BYTES = 16


def raw_hashes(data: bytes | memoryview) -> bytes:
    """One after the other, of each whole page. SHA-256, cut: processors have instructions for it."""
    view, digest = memoryview(data), hashlib.sha256
    starts = range(0, len(view) - len(view) % PAGE_BYTES, PAGE_BYTES)
    return b"".join([digest(view[at : at + PAGE_BYTES]).digest()[:HASH_BYTES] for at in starts])


def canonical_hashes(data: bytes, blocks: list[int], *, is_main: bool) -> bytes:
    """Of pages with these numbers, in canonical form, LSN included; PD_ALL_VISIBLE counts, since it must agree with the
    visibility map."""
    return raw_hashes(canonical(data, blocks, is_main=is_main).tobytes())


def canonical(data: bytes, blocks: list[int], *, is_main: bool) -> Pages:
    """The form itself, checksum zero; maps and pages of other access methods as they are, but for their checksum."""
    pages = as_pages(data)
    if is_main:
        _, pages = canonical_pages(pages, np.array(blocks[: len(pages)], dtype=np.int64), keep_all_visible=True)
    else:
        pages = pages.copy()
    pages[:, 8:10] = 0
    return pages


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
