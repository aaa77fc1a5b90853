"""Reading this node's copies of pages for a comparison, as they lie on its disk. Blocks."""

from __future__ import annotations

import os
from pathlib import Path

from replication.canonical import digests
from replication.page import as_pages, damaged, lsns
from replication.page_size import PAGES_A_SEGMENT
from replication.relation_files import open_past_cache, read_at
from replication.scrub.compare import Range, Seen
from replication.scrub.relation_path import relation_at

PAGES_MAX = 1_024
"""That one question may ask for: 8 MB."""


def read_copies(data_dir: Path, ranges: list[Range]) -> tuple[list[tuple[Seen, ...]], bool]:
    """The pages of each range, and whether any came through the kernel's cache. A file that is not there has none.

    Raises OSError when the disk does not give them, ValueError for a path that is no relation's main fork, or for more than
    `PAGES_MAX` pages.
    """
    if sum(one.count for one in ranges) > PAGES_MAX or any(one.count < 1 or one.first < 0 for one in ranges):
        raise ValueError(f"between 1 and {PAGES_MAX} pages can be read at a time")
    found, any_cached = [], False
    for one in ranges:
        seen, cached = _read(data_dir, one)
        found.append(seen)
        any_cached = any_cached or cached
    return found, any_cached


def _read(data_dir: Path, one: Range) -> tuple[tuple[Seen, ...], bool]:
    if relation_at(one.path) is None:
        raise ValueError(f"{one.path!r} is no relation's main fork")
    segment, first = divmod(one.first, PAGES_A_SEGMENT)
    try:
        descriptor, cached = open_past_cache(data_dir / (one.path if segment == 0 else f"{one.path}.{segment}"))
    except FileNotFoundError:
        return (), False
    try:
        pages = as_pages(read_at(descriptor, first, min(one.count, PAGES_A_SEGMENT - first)))
    finally:
        os.close(descriptor)
    if not len(pages):
        return (), cached
    bad = set(damaged(pages, one.first))
    known = digests(pages, one.first)
    return tuple(
        Seen(None) if one.first + index in bad else Seen(int(lsn), digest.hex() if digest is not None else None)
        for index, (lsn, digest) in enumerate(zip(lsns(pages), known, strict=True))
    ), cached
