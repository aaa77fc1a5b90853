"""Reading a relation's files from the disk, past the kernel's cache where the file system allows it. Blocks."""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

from replication.page import PAGE_BYTES, PAGES_A_SEGMENT, as_pages, damaged

_BATCH_PAGES = 64
_READ_AGAIN = 3
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
    with mmap.mmap(-1, count * PAGE_BYTES) as aligned:  # O_DIRECT wants memory on a page boundary
        got = os.preadv(descriptor, [aligned], page * PAGE_BYTES)
        return aligned[:got]


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
