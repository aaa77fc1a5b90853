"""The canonical form of a page: what WAL determines of it, so that two nodes' copies at one LSN are equal. Pure; NumPy.

Hint bits, kill marks and garbage differ between nodes although nothing is wrong. What is cleared follows PostgreSQL's own masks
for wal_consistency_checking: src/backend/access/common/bufmask.c, heap_mask (heapam_xlog.c), btree_mask (nbtxlog.c); but status
bits that WAL does determine are kept: the frozen pair, and XMAX_INVALID where there is no xmax. Heaps and B-trees; for digests also
GiST (gist_mask in gistxlog.c), which forbids double booking, GIN (gin_mask in ginxlog.c) and SP-GiST (spg_mask in spgxlog.c).
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from replication.page import Pages
from replication.page_kinds import HEADER_BYTES, POINTER_BYTES, WIDE_SPECIAL, Headers, headers, kinds
from replication.page_size import PAGE_BYTES

_SPLIT_END, _GARBAGE = 0x20, 0x40  # src/include/access/nbtree.h
_GIST_HINTS, _NSN_BYTES = 0x18, 8  # src/include/access/gist.h
_NORMAL, _DEAD = 1, 3  # src/include/storage/itemid.h
_COMBOCID, _XMIN_BITS, _XMAX_COMMITTED, _XMAX_INVALID = 0x0020, 0x0300, 0x0400, 0x0800  # htup_details.h
_SPECULATIVE = 0xFFFE
_DIGEST_BYTES = 8
_PADDING_MAX = 8
"""Longer than what an item is aligned to (MAXALIGN): then it is a hole."""


class _Items(NamedTuple):
    """Line pointers with storage, of all pages in one row: page, place in the row of bytes, length, number on the page."""

    page: NDArray[np.int64]
    at: NDArray[np.int64]
    length: NDArray[np.int64]
    number: NDArray[np.int64]


class Canonical(NamedTuple):
    """Pages in canonical form, checksum 0. `fit`: which have one, the others are given as they were, noise among them; `hinted`:
    which bore status bits, dead marks or tokens that are cleared in it. What else differs (padding, the hole, t_cid, hints on free
    space) says nothing of any transaction."""

    fit: NDArray[np.bool_]
    pages: Pages
    hinted: NDArray[np.bool_]


def digests(pages: Pages, first_block: int) -> list[bytes | None]:
    """A digest of the canonical form of each whole page, without its LSN; None for one that has no such form here: empty, of
    another access method (hash, BRIN, sequences), or deleted."""
    fit, canonical, _ = canonical_pages(pages, first_block, to_compare=True)
    return [
        hashlib.blake2b(page[8:].tobytes(), digest_size=_DIGEST_BYTES).digest() if is_fit else None
        for is_fit, page in zip(fit, canonical, strict=True)
    ]


def canonical_pages(
    pages: Pages, blocks: int | NDArray[np.int64], *, keep_all_visible: bool = False, to_compare: bool = False
) -> Canonical:
    """`blocks`: the number of the first page, or of each. `keep_all_visible`: where the form is to be written, PD_ALL_VISIBLE must
    go on agreeing with the visibility map. `to_compare`: never where it is to be written, since searches of GiST need what is cleared.
    """
    out = pages.copy()
    heads = headers(pages)
    found = kinds(pages, heads)
    fit = found.heap | found.btree
    if to_compare:
        fit |= found.gist | found.other
    _clear_hints(out, fit, 0xFC if keep_all_visible else 0xF8)
    hinted = np.zeros(len(out), dtype=np.bool_)
    hinted[_revive(out, heads, found.with_marks & fit)] = True
    items = _items(out, heads, found.with_items & fit)
    numbers = np.arange(len(out)) + blocks if isinstance(blocks, int) else blocks
    hinted[_mask_tuples(out, items, found.heap, numbers)] = True
    _clear_btree(out, found.btree)
    _clear_gist(out, found.gist & fit)
    _clear_uncovered(out, heads, items, fit)
    return Canonical(fit, out, hinted)


def _clear_hints(out: Pages, fit: NDArray[np.bool_], flags_kept: int) -> None:
    """Checksum, the hints among the flags, and pd_prune_xid."""
    keep = np.where(fit, 0, 0xFF).astype(np.uint8)
    out[:, 8] &= keep
    out[:, 9] &= keep
    out[:, 10] &= np.where(fit, flags_kept, 0xFF).astype(np.uint8)
    for column in range(20, 24):
        out[:, column] &= keep


def _revive(out: Pages, heads: Headers, is_leaf: NDArray[np.bool_]) -> NDArray[np.int64]:
    """An index entry that was marked dead is normal again: the mark is a hint. The pages that had any."""
    rows = np.flatnonzero(is_leaf)
    if not len(rows):
        return rows
    count = int((heads.lower[rows].max() - HEADER_BYTES) // POINTER_BYTES)
    stop = HEADER_BYTES + count * POINTER_BYTES
    pointers = out[rows, HEADER_BYTES:stop].copy().view("<u4")
    there = np.arange(count) < ((heads.lower[rows] - HEADER_BYTES) // POINTER_BYTES)[:, None]
    dead = there & (((pointers >> 15) & 3) == _DEAD) & ((pointers >> 17) > 0)
    pointers = np.where(dead, (pointers & ~np.uint32(3 << 15)) | np.uint32(_NORMAL << 15), pointers)
    out[rows, HEADER_BYTES:stop] = pointers.astype("<u4").view(np.uint8)
    marked: NDArray[np.int64] = rows[dead.any(axis=1)]
    return marked


def _items(out: Pages, heads: Headers, with_items: NDArray[np.bool_]) -> _Items:
    rows = np.flatnonzero(with_items)
    counts = np.maximum(0, (heads.lower[rows] - HEADER_BYTES) // POINTER_BYTES)
    most = int(counts.max()) if len(rows) else 0
    if not most:
        nothing = np.zeros(0, dtype=np.int64)
        return _Items(nothing, nothing, nothing, nothing)
    pointers = out[rows, HEADER_BYTES : HEADER_BYTES + most * POINTER_BYTES].copy().view("<u4").astype(np.int64)
    at, flag, length = pointers & 0x7FFF, (pointers >> 15) & 3, pointers >> 17
    fits = (at >= heads.upper[rows][:, None]) & (at + length <= heads.special[rows][:, None])
    kept = (np.arange(most) < counts[:, None]) & (flag != 0) & (flag != 2) & (length > 0) & fits
    page, number = np.nonzero(kept)
    return _Items(rows[page], at[kept], length[kept], number + 1)


def _mask_tuples(out: Pages, items: _Items, is_heap: NDArray[np.bool_], blocks: NDArray[np.int64]) -> NDArray[np.int64]:
    """The pages of the tuples that had anything but t_cid to be masked, some more than once."""
    chosen = is_heap[items.page] & (items.length >= HEADER_BYTES - 1)
    page, number = items.page[chosen], items.number[chosen]
    start = page * PAGE_BYTES + items.at[chosen]
    flat = out.reshape(-1)
    info = flat[start + 20].astype(np.int64) | flat[start + 21].astype(np.int64) << 8
    before = info
    has_xmax = (flat[start + 4] | flat[start + 5] | flat[start + 6] | flat[start + 7]) != 0
    is_frozen = info & _XMIN_BITS == _XMIN_BITS
    info = info & ~(_COMBOCID | _XMAX_COMMITTED)
    info = np.where(is_frozen, info, info & ~_XMIN_BITS)
    info = np.where(has_xmax, info & ~_XMAX_INVALID, info)
    flat[start + 20], flat[start + 21] = (info & 0xFF).astype(np.uint8), (info >> 8).astype(np.uint8)
    for byte in range(8, 12):  # t_cid: a replay has none
        flat[start + byte] = 0
    token = (flat[start + 16].astype(np.int64) | flat[start + 17].astype(np.int64) << 8) == _SPECULATIVE
    _point_at_themselves(flat, start[token], blocks[page[token]], number[token])
    masked: NDArray[np.int64] = page[token | (info != before)]
    return masked


def _point_at_themselves(
    flat: NDArray[np.uint8], start: NDArray[np.int64], block: NDArray[np.int64], number: NDArray[np.int64]
) -> None:
    """t_ctid of a speculative tuple holds a token; a replay never sees it (heapam_xlog.c, heap_xlog_insert)."""
    halves = (block >> 16, block & 0xFFFF, number)
    for index, half in enumerate(halves):
        flat[start + 12 + 2 * index] = (half & 0xFF).astype(np.uint8)
        flat[start + 13 + 2 * index] = (half >> 8).astype(np.uint8)


def _clear_btree(out: Pages, is_btree: NDArray[np.bool_]) -> None:
    keep = np.where(is_btree, 0xFF & ~(_GARBAGE | _SPLIT_END), 0xFF).astype(np.uint8)
    out[:, PAGE_BYTES - 4] &= keep
    out[is_btree, PAGE_BYTES - 2 :] = 0


def _clear_gist(out: Pages, is_gist: NDArray[np.bool_]) -> None:
    """The LSN of the last split, and marks that are set without WAL."""
    out[is_gist, WIDE_SPECIAL : WIDE_SPECIAL + _NSN_BYTES] = 0
    out[is_gist, PAGE_BYTES - 4] &= 0xFF & ~_GIST_HINTS


def _clear_uncovered(out: Pages, heads: Headers, items: _Items, fit: NDArray[np.bool_]) -> None:
    """Zero everything between the line pointers and the special space that is no item: the hole, padding, old tuples."""
    start, end = _uncovered(heads, items, fit)
    flat, length = out.reshape(-1), end - start
    for byte in range(min(_PADDING_MAX, int(length.max(initial=0)))):
        flat[start[(length > byte) & (length <= _PADDING_MAX)] + byte] = 0
    is_long = length > _PADDING_MAX
    for first, stop in zip(start[is_long].tolist(), end[is_long].tolist(), strict=True):
        flat[first:stop] = 0


def _uncovered(heads: Headers, items: _Items, fit: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ranges of bytes, counted from the first page on, that neither head, item nor special space covers; of pages that do not
    fit, none."""
    base = np.arange(len(fit)) * PAGE_BYTES
    lower = np.where(fit, np.clip(heads.lower, 0, PAGE_BYTES), PAGE_BYTES)
    special = np.clip(heads.special, 0, PAGE_BYTES)
    at = items.page * PAGE_BYTES + items.at
    starts = np.concatenate((base, base + special, at))
    ends = np.concatenate((base + lower, base + PAGE_BYTES, at + items.length))
    order = np.argsort(starts, kind="stable")
    start, end = np.maximum.accumulate(ends[order])[:-1], starts[order][1:]
    is_gap = end > start
    return start[is_gap], end[is_gap]
