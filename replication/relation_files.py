"""Reading a relation's files from the disk, past the kernel's cache where the file system allows it. Blocks."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from replication.page import as_pages, damaged, lsns
from replication.page_size import PAGE_BYTES, PAGES_A_SEGMENT

_BATCH_PAGES = 64
_READ_AGAIN = 3
_SPARE_PAGES, _SPARE_MAX = 256, 4
_SPARE: deque[mmap.mmap] = deque()
"""Threads take and give: a deque's ends are safe for that."""
_PAUSE_S = 0.01


def pages_of(data_dir: Path, path: str) -> int:
    """How many pages the relation's files hold now; 0 when there is none. Raises OSError."""
    return sum(size // PAGE_BYTES for _, size in _segments(data_dir, path))


def damaged_blocks(data_dir: Path, path: str, first: int, count: int) -> list[int]:
    """Numbers of the pages in `first .. first + count` that PostgreSQL would refuse to read.

    A page that is being written may be seen torn: a bad one is read again, with pauses. Raises OSError when the disk
    does not give the bytes.
    """
    bad: list[int] = []
    segment, offset = divmod(first, PAGES_A_SEGMENT)
    while count > 0:
        in_segment = min(count, PAGES_A_SEGMENT - offset)
        bad += _of_segment(_segment(data_dir, path, segment), segment * PAGES_A_SEGMENT, offset, in_segment)
        segment, offset, count = segment + 1, 0, count - in_segment
    return bad


def batches(pages: int) -> Iterator[tuple[int, int]]:
    """(first, count) of each batch of a relation of so many pages."""
    for first in range(0, pages, _BATCH_PAGES):
        yield first, min(_BATCH_PAGES, pages - first)


def _of_segment(path: Path, base: int, first: int, count: int) -> list[int]:
    descriptor, _cached = open_past_cache(path)
    try:
        bad = damaged(as_pages(read_at(descriptor, first, count)), base + first)
        for _ in range(_READ_AGAIN):
            if not bad:
                break
            time.sleep(_PAUSE_S)
            bad = [number for block in bad for number in damaged(as_pages(read_at(descriptor, block - base, 1)), block)]
    finally:
        os.close(descriptor)
    return bad


def lsns_on_disk(data_dir: Path, path: str, blocks: list[int]) -> dict[int, int | None]:
    """The LSN that each of these pages has on the disk, which must be in ascending order; None for a page that is not whole,
    for whatever reason. Blocks beyond the end, and those of a relation that is gone, are left out. Raises OSError."""
    found: dict[int, int | None] = {}
    for segment, first, count in _runs(blocks):
        try:
            descriptor, _cached = open_past_cache(_segment(data_dir, path, segment))
        except FileNotFoundError:
            continue
        try:
            pages = as_pages(read_at(descriptor, first, count))
        finally:
            os.close(descriptor)
        base = segment * PAGES_A_SEGMENT + first
        bad = set(damaged(pages, base)) if len(pages) else set()
        for offset, lsn in enumerate(lsns(pages)):
            found[base + offset] = None if base + offset in bad else int(lsn)
    return found


def page_on_disk(data_dir: Path, path: str, block: int) -> bytes | None:
    """One page as it lies there; None where there is none. Raises OSError."""
    segment, first = divmod(block, PAGES_A_SEGMENT)
    try:
        descriptor, _cached = open_past_cache(_segment(data_dir, path, segment))
    except FileNotFoundError:
        return None
    try:
        return read_at(descriptor, first, 1) or None
    finally:
        os.close(descriptor)


def _runs(blocks: list[int]) -> Iterator[tuple[int, int, int]]:
    """(segment, first page in it, pages) of each row of neighbours."""
    at = 0
    while at < len(blocks):
        segment, first = divmod(blocks[at], PAGES_A_SEGMENT)
        count = 1
        while (
            at + count < len(blocks)
            and count < _BATCH_PAGES
            and blocks[at + count] == blocks[at] + count
            and first + count < PAGES_A_SEGMENT
        ):
            count += 1
        yield segment, first, count
        at += count


def open_past_cache(path: Path) -> tuple[int, bool]:
    """A descriptor for reading, and whether it goes through the kernel's cache: where the file system has no O_DIRECT.
    Raises OSError."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_DIRECT), False
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags), True


def read_at(descriptor: int, page: int, count: int) -> bytes:
    """So many pages from this one on, fewer at the end of the file. Raises OSError."""
    with aligned(count) as room:
        return bytes(read_into(room, descriptor, page, count))


def read_into(room: mmap.mmap, descriptor: int, page: int, count: int) -> memoryview:
    """The same into memory that was made with `aligned`; what is given is a view of it. Raises OSError."""
    view = memoryview(room)[: count * PAGE_BYTES]
    return view[: os.preadv(descriptor, [view], page * PAGE_BYTES)]


def in_pieces(descriptor: int, page: int, count: int) -> Iterator[memoryview]:
    """So many pages from this one on, whole ones only, fewer at the end of the file, a piece at a time in memory that is used again:
    each is good until the next is asked for. Raises OSError."""
    with aligned(_SPARE_PAGES) as room:
        while count > 0:
            asked = min(count, _SPARE_PAGES)
            view = read_into(room, descriptor, page, asked)
            whole = len(view) // PAGE_BYTES
            yield view[: whole * PAGE_BYTES]
            if whole < asked:
                return
            page, count = page + asked, count - asked


@contextlib.contextmanager
def aligned(pages: int) -> Iterator[mmap.mmap]:
    """Memory on a page boundary, as O_DIRECT wants it. Used again and again: memory fresh from the system costs more than the
    reading, a page fault for every 4 kB. A reader that never comes back from its disk keeps what it has."""
    room = _SPARE.pop() if _SPARE and pages <= _SPARE_PAGES else mmap.mmap(-1, max(pages, _SPARE_PAGES) * PAGE_BYTES)
    yield room
    if pages <= _SPARE_PAGES and len(_SPARE) < _SPARE_MAX:
        _SPARE.append(room)


def _segments(data_dir: Path, path: str) -> Iterator[tuple[Path, int]]:
    number = 0
    while True:
        segment = _segment(data_dir, path, number)
        try:
            size = segment.stat().st_size
        except FileNotFoundError:
            return
        yield segment, size
        if size < PAGES_A_SEGMENT * PAGE_BYTES:
            return
        number += 1


def _segment(data_dir: Path, path: str, number: int) -> Path:
    return data_dir / (path if number == 0 else f"{path}.{number}")
