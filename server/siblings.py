"""The receipts of the other workers of this host, read from their files: all of them guard every answer, whoever gave it out.

A receipt is on its disk before its answer goes out, so the files are the whole truth, also about a worker that is dead. Each worker
writes its own and reads the others'; nothing has to be asked of anybody.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import structlog

from replication.model import Receipt
from server.receipt_file import FILE_BYTES, MAGIC, Stored, parse_on
from server.receipts import Receipts

_log = structlog.get_logger()

_EVERY_S = 0.1
"""So old may be what this worker knows of the others': a row that vanished within it is caught by the worker that wrote it."""
_CHUNK_BYTES = 4 * FILE_BYTES
_LENGTH_BYTES = 4


class SiblingFiles:
    """The directories of some others. `news` blocks, one thread at a time. Raises OSError."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = directories
        self._read_to: dict[Path, int] = {}
        self._ids: dict[Path, set[str]] = {}

    def news(self) -> tuple[list[Stored], list[str]]:
        """Records since the last time, and the ids of files that are gone: certified, and needed no more."""
        found: list[Stored] = []
        files = [path for directory in self._directories for path in sorted(directory.glob("receipts-*.log"))]
        for path in files:
            found += self._news_of(path)
        gone = self._ids.keys() - set(files)
        forgotten = [name for path in gone for name in self._ids.pop(path)]
        for path in gone:
            del self._read_to[path]
        return found, forgotten

    def _news_of(self, path: Path) -> list[Stored]:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        try:
            start = self._read_to.setdefault(path, len(MAGIC))
            if not any(os.pread(descriptor, _LENGTH_BYTES, start)):
                return []  # zeros: nothing has come
            found, end = parse_on(os.pread(descriptor, _CHUNK_BYTES, start))
        finally:
            os.close(descriptor)
        self._read_to[path] = start + end
        self._ids.setdefault(path, set()).update(stored.receipt.id for stored in found)
        return found


class Siblings:
    """`run` keeps `receipts` up to date with what the others wrote."""

    def __init__(self, receipts: Receipts, directories: Sequence[Path]) -> None:
        self._receipts = receipts
        self._directories = directories
        self._files = SiblingFiles(directories)
        self._problem: str | None = None

    async def run(self) -> None:
        """Until cancelled. A file that cannot be read is told and read the next time: this worker serves on."""
        while self._directories:
            await self.catch_up()
            await asyncio.sleep(_EVERY_S)

    async def catch_up(self) -> None:
        """Learn what the others have written until now, as far as it can be read."""
        try:
            self._receipts.learn(*await asyncio.to_thread(self._files.news))
            self._problem = None
        except OSError as error:
            if self._problem is None:
                _log.error("server.siblings_unreadable", error=error.strerror)
            self._problem = str(error)

    async def all(self) -> list[Receipt]:
        """The newest receipt of each id, of this worker and all others, as their disks have it now. Raises OSError."""
        theirs, _ = await asyncio.to_thread(SiblingFiles(self._directories).news)
        newest = {receipt.id: receipt for receipt in self._receipts.newest()}
        for stored in theirs:
            known = newest.get(stored.receipt.id)
            if known is None or known.version < stored.receipt.version:
                newest[stored.receipt.id] = stored.receipt
        return list(newest.values())
