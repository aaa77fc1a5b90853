"""Data that was written and not yet fsynced, as a machine's page cache holds it: lost when the machine dies.

Sizes go through to the backing file at once, so a file that lost its data keeps its length and reads as zeros, as on ext4.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

from failover.drill.faultfs.spec import BLOCK_BYTES

DIRTY_BYTES_MAX = 256 * 1024 * 1024
"""Above it a file is written back without being asked, as a kernel does."""

_DIRTY_BLOCKS_MAX = DIRTY_BYTES_MAX // BLOCK_BYTES

Key = tuple[int, int]
"""Device and inode."""


class _Dirty:
    """The blocks of one file that are not on the disk yet, and a descriptor of its own to write them with, kept from the
    first write until the file is gone."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.writing_back = threading.Lock()
        """Held while blocks go to the backing file; `lock` is not, so that reads and writes go on."""
        self.blocks: dict[int, bytes] = {}
        self.fd: int | None = None
        self.has_unsynced_backing = True
        """The backing file holds what only a sync of the whole file brings to its disk: data, or its length."""

    def hold(self, fd: int) -> None:
        if self.fd is None:
            self.fd = os.dup(fd)

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class Overlay:
    """Every read and write of a file goes through it, named by its key and an open descriptor that may read and write.

    Methods raise OSError as the system calls do.
    """

    def __init__(self) -> None:
        self._files: dict[Key, _Dirty] = {}
        self._lock = threading.Lock()
        self._dirty_blocks = 0

    def read(self, key: Key, fd: int, size: int, offset: int) -> bytes:
        """Like pread, with what was written last."""
        file = self._files.get(key)
        if file is None or not file.blocks:
            return os.pread(fd, size, offset)
        with file.lock:
            data = bytearray(os.pread(fd, size, offset))
            for number, start, end in _pieces(offset, len(data)):
                block = file.blocks.get(number)
                if block is not None:
                    at = number * BLOCK_BYTES + start - offset
                    data[at : at + end - start] = block[start:end]
            return bytes(data)

    def write(self, key: Key, fd: int, data: bytes, offset: int) -> None:
        """Like pwrite of all of it, into memory; only the file's length is on the disk at once."""
        file = self._file(key)
        with file.lock:
            blocks, before = file.blocks, len(file.blocks)
            end = offset + len(data)
            if os.fstat(fd).st_size < end:
                os.ftruncate(fd, end)
                file.has_unsynced_backing = True
            file.hold(fd)
            for number, start, stop in _pieces(offset, len(data)):
                at = number * BLOCK_BYTES + start - offset
                piece = data[at : at + stop - start]
                if len(piece) < BLOCK_BYTES:
                    old = blocks.get(number) or _padded(os.pread(fd, BLOCK_BYTES, number * BLOCK_BYTES))
                    piece = old[:start] + piece + old[stop:]
                blocks[number] = piece
            if len(blocks) != before:
                self._count(len(blocks) - before)
        if self._dirty_blocks > _DIRTY_BLOCKS_MAX:
            self.write_all_back()

    def sync(self, key: Key, fd: int, *, data_only: bool) -> None:
        """Like fsync or fdatasync: what was written before is on the disk."""
        file = self._files.get(key)
        if file is None:
            (os.fdatasync if data_only else os.fsync)(fd)
            return
        with file.writing_back:
            with file.lock:
                taken = dict(file.blocks)
                is_overwrite = data_only and not file.has_unsynced_backing
                file.has_unsynced_backing = False
            try:
                self._bring(fd, self._within(file, taken), data_only=data_only, is_overwrite=is_overwrite)
            except OSError:
                file.has_unsynced_backing = True
                raise
            self._done(file, taken)

    @staticmethod
    def _bring(fd: int, runs: list[tuple[int, bytes]], *, data_only: bool, is_overwrite: bool) -> None:
        if is_overwrite and len(runs) == 1:  # the way of WAL: one call
            start, data = runs[0]
            os.pwritev(fd, [data], start, os.RWF_DSYNC)
            return
        for start, data in runs:
            os.pwrite(fd, data, start)
        (os.fdatasync if data_only else os.fsync)(fd)

    def truncate(self, key: Key, fd: int, length: int) -> None:
        """Like ftruncate."""
        file = self._files.get(key)
        if file is None:
            os.ftruncate(fd, length)
            return
        with file.writing_back, file.lock:
            os.ftruncate(fd, length)
            file.has_unsynced_backing = True
            before = len(file.blocks)
            last, kept = divmod(length, BLOCK_BYTES)
            for number in [number for number in file.blocks if number > last or (number == last and not kept)]:
                del file.blocks[number]
            if last in file.blocks:
                file.blocks[last] = _padded(file.blocks[last][:kept])
            self._count(len(file.blocks) - before)

    def allocate(self, key: Key, fd: int, offset: int, size: int) -> None:
        """Like posix_fallocate."""
        file = self._file(key)
        with file.lock:
            file.has_unsynced_backing = True
            os.posix_fallocate(fd, offset, size)

    def drop(self, key: Key) -> int:
        """Forget what is in memory of this file, as a kernel does after a failed fsync: how many blocks."""
        file = self._files.get(key)
        if file is None:
            return 0
        with file.lock:
            return self._let_go(file)

    def lose_everything(self) -> tuple[int, int]:
        """The machine loses power: (files, blocks) that are gone."""
        files = blocks = 0
        for file in self._all():
            with file.lock:
                lost = self._let_go(file)
                files += bool(lost)
                blocks += lost
        return files, blocks

    def write_all_back(self) -> None:
        """At a clean end: nothing is lost."""
        for file in self._all():
            self._write_back(file)

    def dirty_bytes(self) -> int:
        """How much is in memory only."""
        return self._dirty_blocks * BLOCK_BYTES

    def forget(self, key: Key) -> None:
        """The file is gone for good."""
        with self._lock:
            file = self._files.pop(key, None)
        if file is not None:
            with file.lock:
                self._let_go(file)
                file.close()

    def _file(self, key: Key) -> _Dirty:
        file = self._files.get(key)
        if file is None:
            with self._lock:
                file = self._files.setdefault(key, _Dirty())
        return file

    def _all(self) -> list[_Dirty]:
        with self._lock:
            return list(self._files.values())

    def _count(self, blocks: int) -> None:
        with self._lock:
            self._dirty_blocks += blocks

    def _let_go(self, file: _Dirty) -> int:
        count = len(file.blocks)
        file.blocks.clear()
        self._count(-count)
        return count

    def _write_back(self, file: _Dirty) -> None:
        with file.writing_back:
            with file.lock:
                taken = dict(file.blocks)
                file.has_unsynced_backing = True
            if file.fd is not None:
                for start, data in self._within(file, taken):
                    os.pwrite(file.fd, data, start)
            self._done(file, taken)

    @staticmethod
    def _within(file: _Dirty, blocks: dict[int, bytes]) -> list[tuple[int, bytes]]:
        """(offset, bytes), neighbours together, none beyond the end of the file."""
        size = os.fstat(file.fd).st_size if file.fd is not None else 0
        runs = [(first * BLOCK_BYTES, data) for first, data in _runs(blocks)]
        return [(start, data[: size - start]) for start, data in runs if start < size]

    def _done(self, file: _Dirty, taken: dict[int, bytes]) -> None:
        """They are in the backing file, unless they were written again meanwhile."""
        with file.lock:
            written = [number for number, block in taken.items() if file.blocks.get(number) is block]
            for number in written:
                del file.blocks[number]
        self._count(-len(written))


def _padded(data: bytes) -> bytes:
    return data.ljust(BLOCK_BYTES, b"\0")


def _pieces(offset: int, length: int) -> Iterator[tuple[int, int, int]]:
    """(block, start within it, end within it) of a stretch of bytes."""
    end = offset + length
    while offset < end:
        number, start = divmod(offset, BLOCK_BYTES)
        stop = min(BLOCK_BYTES, start + end - offset)
        yield number, start, stop
        offset += stop - start


def _runs(blocks: dict[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """Neighbouring blocks together: (first block, bytes)."""
    run: list[bytes] = []
    first = 0
    for number in sorted(blocks):
        if run and number != first + len(run):
            yield first, b"".join(run)
            run = []
        first = first if run else number
        run.append(blocks[number])
    if run:
        yield first, b"".join(run)
