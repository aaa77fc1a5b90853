"""Whose page it is: a heap's, or that of an index's access method. Pure; NumPy.

An index ends its pages with a space of its own and a mark there: src/include/access/nbtree.h (BTPageOpaqueData), gist.h
(GIST_PAGE_ID), spgist_private.h (SPGIST_PAGE_ID), ginblock.h (GinPageOpaqueData, which has none), commands/sequence.c (SEQ_MAGIC).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from replication.page import Pages, as_pages
from replication.page_size import PAGE_BYTES

HEADER_BYTES, POINTER_BYTES = 24, 4
WIDE_SPECIAL, NARROW_SPECIAL = PAGE_BYTES - 16, PAGE_BYTES - 8
_CYCLE_ID_MAX = 0xFF7F  # nbtree.h, MAX_BT_CYCLE_ID: other indexes put their mark above
_BTREE_LEAF, _BTREE_DELETED, _BTREE_META = 0x01, 0x04, 0x08
_GIST_ID, _GIST_LEAF, _GIST_DELETED = 0xFF81, 0x01, 0x02
_SPGIST_ID, _SPGIST_META = 0xFF82, 0x01
_GIN_FLAGS_MAX, _GIN_DATA, _GIN_DELETED, _GIN_META = 0xFF, 0x01, 0x04, 0x08
_SEQUENCE_MAGIC = 0x1717

_Mask = NDArray[np.bool_]


class Headers(NamedTuple):
    """pd_lower, pd_upper and pd_special of each page."""

    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    special: NDArray[np.int64]


class Kinds(NamedTuple):
    """Which pages are of which kind; none is of two, and one that is not whole, or deleted, is of none. `other`: GIN, and SP-GiST
    but for the page on which it notes free pages without WAL (spgutils.c, SpGistUpdateMetaPage). `with_items`: behind whose header
    come line pointers. `with_marks`: whose entries may be marked dead, which is a hint."""

    heap: _Mask
    btree: _Mask
    gist: _Mask
    other: _Mask
    with_items: _Mask
    with_marks: _Mask


def headers(pages: Pages) -> Headers:
    """What each header says of the page's parts."""
    words = pages[:, :HEADER_BYTES].copy().view("<u2").astype(np.int64)
    return Headers(words[:, 6], words[:, 7], words[:, 8])


def kinds(pages: Pages, heads: Headers) -> Kinds:
    """The kind of each page."""
    words = pages[:, NARROW_SPECIAL:].copy().view("<u2").astype(np.int64)
    flags, mark = words[:, 2], words[:, 3]
    is_used = (
        (heads.lower >= HEADER_BYTES)
        & (heads.lower <= heads.upper)
        & (heads.upper <= heads.special)
        & (heads.special <= PAGE_BYTES)
    )
    is_wide, is_narrow = is_used & (heads.special == WIDE_SPECIAL), is_used & (heads.special == NARROW_SPECIAL)
    heap = is_used & (heads.special == PAGE_BYTES)
    btree = is_wide & (mark <= _CYCLE_ID_MAX) & (flags & _BTREE_DELETED == 0)
    gist = is_wide & (mark == _GIST_ID) & (flags & _GIST_DELETED == 0)
    spgist = is_narrow & (mark == _SPGIST_ID) & (words[:, 0] & _SPGIST_META == 0)
    is_sequence = (words[:, 0] == _SEQUENCE_MAGIC) & ~words[:, 1:].any(axis=1)
    gin = is_narrow & (mark <= _GIN_FLAGS_MAX) & (mark & _GIN_DELETED == 0) & ~is_sequence
    return Kinds(
        heap,
        btree,
        gist,
        gin | spgist,
        heap | (btree & (flags & _BTREE_META == 0)) | gist | spgist | (gin & (mark & (_GIN_DATA | _GIN_META) == 0)),
        (btree & (flags & _BTREE_LEAF != 0)) | (gist & (flags & _GIST_LEAF != 0)),
    )


def has_rows_or_keys(page: bytes) -> bool:
    """Whether one page is a heap's or a B-tree's, whose items WAL can be asked for."""
    pages = as_pages(page)
    found = kinds(pages, headers(pages))
    return bool(found.heap[0] or found.btree[0])
