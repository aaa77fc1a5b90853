"""The page scrub: every page of every relation read from the disk, past the cache, and its checksum and header verified.

A pass takes as long as its budget says, can be stopped after each batch, and goes on where it was. A page that is being
written may be seen torn: a bad one is read again, with pauses, and one whose LSN moved meanwhile is left to the next pass
(DESIGN section 5, page checksums, online).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from replication.page import Pages, as_pages, damaged, lsns
from replication.page_size import PAGE_BYTES
from replication.relation_files import aligned, open_past_cache, read_at, read_into
from replication.scrub.files import RelationFile, relation_files
from replication.scrub.read_ahead import ReadAhead

BATCH_PAGES = 128
_READ_AGAIN = 3
_PAUSE_S = 0.01


class BadPage(msgspec.Struct, frozen=True, order=True):
    """A page that PostgreSQL would refuse to read, or that the disk does not give (`error`). `path`: of its fork."""

    path: str
    block: int
    error: str | None = None


class Batch(msgspec.Struct, frozen=True):
    """What one step of a pass has read: pages of this fork from `first_block` on, what is bad, the LSNs of all when none is,
    and whether the kernel's cache was passed by."""

    fork: str
    first_block: int
    pages: int
    bad: tuple[BadPage, ...] = ()
    cached: bool = False
    lsns: tuple[int, ...] = ()


class Position(msgspec.Struct, frozen=True):
    """Where a pass goes on: the file, and the page within it. What it has read so far, and of how much."""

    file: str = ""
    page: int = 0
    pages_read: int = 0
    pages_in_all: int = 0


class _Open(msgspec.Struct, frozen=True):
    file: RelationFile
    descriptor: int
    cached: bool


class PagePass:
    """One pass over a data directory, from a position on. `step` in a thread, again and again, until it gives None. `reads_ahead`:
    for a pass that is to be fast and may have two processors.

    Raises OSError when the directory itself cannot be listed; what a file does not give is told as bad.
    """

    def __init__(self, data_dir: Path, position: Position = Position(), *, reads_ahead: bool = False) -> None:  # noqa: B008  frozen
        self.position = position
        self._ahead = ReadAhead(BATCH_PAGES, PAGE_BYTES) if reads_ahead else None
        self._data_dir = data_dir
        self._files: Iterator[RelationFile] | None = None
        self._open: _Open | None = None
        self._turn = threading.Lock()
        self._is_over = False

    def step(self) -> Batch | None:
        """Read the next pages of one file. None: the pass is over. Blocks."""
        try:
            with self._turn:
                return None if self._is_over else self._step()
        finally:
            if self._is_over:
                self.close()

    def close(self) -> None:
        """End the pass. Does not wait: a step that is under way, which a disk may hold up, gives the file back itself."""
        self._is_over = True
        if self._turn.acquire(blocking=False):
            try:
                self._give_back()
            finally:
                self._turn.release()

    def _step(self) -> Batch | None:
        while True:
            if self._open is None:
                self._open = self._next()
            if self._open is None:
                return None
            batch = self._read(self._open, BATCH_PAGES)
            if batch is not None:
                return batch
            self._give_back()

    def _give_back(self) -> None:
        if self._open is not None:
            if self._ahead is not None:
                self._ahead.forget()
            os.close(self._open.descriptor)
            self._open = None

    def _next(self) -> _Open | None:
        if self._files is None:
            files = relation_files(self._data_dir)
            known = self.position
            self.position = Position(known.file, known.page, known.pages_read, sum(file.pages for file in files))
            self._files = iter([file for file in files if file.path >= known.file])
        for file in self._files:
            try:
                descriptor, cached = open_past_cache(self._data_dir / file.path)
            except FileNotFoundError:
                continue
            page = self.position.page if file.path == self.position.file else 0
            self.position = Position(file.path, page, self.position.pages_read, self.position.pages_in_all)
            return _Open(file, descriptor, cached)
        return None

    def _read(self, opened: _Open, count: int) -> Batch | None:
        page = self.position.page
        first = opened.file.first_block + page
        with aligned(count) as room:
            try:
                if self._ahead is None:
                    view = read_into(room, opened.descriptor, page, count)
                else:
                    view = self._ahead.take(opened.descriptor, page, count, opened.file.pages)
            except OSError as error:
                bad = BadPage(opened.file.fork_path, first, error.strerror or str(error))
                return self._advanced(opened, count, [bad])
            pages = as_pages(view)
            return self._verified(opened, first, pages) if len(pages) else None

    def _verified(self, opened: _Open, first: int, pages: Pages) -> Batch:
        again = [
            self._again(opened, block, int(lsns(pages[block - first : block - first + 1])[0]))
            for block in damaged(pages, first)
        ]
        bad_pages = [one for one in again if one is not None]
        found = self._advanced(opened, len(pages), bad_pages)
        return found if again else msgspec.structs.replace(found, lsns=tuple(lsns(pages).tolist()))

    def _again(self, opened: _Open, block: int, lsn: int) -> BadPage | None:
        """A bad page read again: None when it turned out whole, moved on, or is no longer part of the file."""
        for _ in range(_READ_AGAIN):
            time.sleep(_PAUSE_S)
            try:
                pages = as_pages(read_at(opened.descriptor, block - opened.file.first_block, 1))
            except OSError as error:
                return BadPage(opened.file.fork_path, block, error.strerror or str(error))
            if not len(pages) or not damaged(pages, block) or int(lsns(pages)[0]) != lsn:
                return None
        if not (self._data_dir / opened.file.path).exists():
            return None  # dropped meanwhile
        return BadPage(opened.file.fork_path, block)

    def _advanced(self, opened: _Open, count: int, bad: list[BadPage]) -> Batch:
        known = self.position
        self.position = Position(known.file, known.page + count, known.pages_read + count, known.pages_in_all)
        first = opened.file.first_block + known.page
        return Batch(opened.file.fork_path, first, count, tuple(bad), opened.cached)


class Budget:
    """How fast a pass may read: MB/s (0: as fast as it can). `waits_s` after each batch; slow bookings stop it, and `share` is
    how much of it may be used now. Pure but for the clock and the share that it is given."""

    def __init__(
        self,
        mb_per_s: float,
        latency_ms_max: int,
        share: Callable[[], float] = lambda: 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bytes_per_s = mb_per_s * 1_000_000
        self._latency_ms_max = latency_ms_max
        self._share = share
        self._monotonic = monotonic
        self._free_s = monotonic()

    def waits_s(self, pages: int, latency_ms: int | None) -> float:
        """How long to wait after so many pages, when the last commit of this node took `latency_ms`."""
        if self._bytes_per_s <= 0:
            return 0.0
        now_s = self._monotonic()
        self._free_s = max(self._free_s, now_s - 1.0) + pages * PAGE_BYTES / (self._bytes_per_s * self._share())
        wait_s = max(0.0, self._free_s - now_s)
        if latency_ms is not None and latency_ms > self._latency_ms_max:
            return max(wait_s, _YIELD_S * min(1.0, pages / BATCH_PAGES))
        return wait_s


_YIELD_S = 1.0
"""For a whole batch. Bookings are slow: whatever makes them so, it is not to be the scrub. A relation of one page costs them
little, and there are hundreds in a catalog: nobody would come to the end of it."""
