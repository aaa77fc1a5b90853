"""One file of pages that becomes the source's: what differs is fetched, the rest stays, or is written without its hints.

Keeping a page as it is because its content is equal would keep its hint bits too, and one of those may say that a transaction
committed which never reached the other node. So a page stays only when its bytes are equal, or when it has no such bits, as nearly all
pages of a former standby; those of a former primary are written in canonical form (DESIGN section 6, rebuild). On a standby a hint
alone makes no page dirty (MarkBufferDirtyHint in src/backend/storage/buffer/bufmgr.c).
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from replication.client import AgentClient
from replication.difference.files import Entry
from replication.difference.hashes import canonical, parts, raw_hashes, sealed
from replication.difference.protocol import PAGES_MAX, AskPages, runs
from replication.page import Pages, as_pages, damaged_among
from replication.page_size import PAGE_BYTES
from replication.relation_files import in_pieces, open_past_cache, read_at
from replication.scrub.relation_path import relation_at
from replication.threads import in_thread

_MODE = 0o600


class Copied(msgspec.Struct):
    """What it took: pages compared, fetched, unlike in hints alone, of these written in canonical form, and bytes that came over
    the network."""

    pages: int = 0
    fetched: int = 0
    hinted: int = 0
    rewritten: int = 0
    received_bytes: int = 0

    @property
    def sentence(self) -> str:
        """For a person."""
        return (
            f"{self.fetched} of {self.pages} pages differed, {self.hinted} in hints alone, "
            f"of which {self.rewritten} were written without them, "
            f"{self.received_bytes} bytes came over the network"
        )


class PagesFile:
    """`copy` it once. `turns`: how many ranges may be under way in all files together."""

    def __init__(self, path: Path, peer: AgentClient, entry: Entry, copied: Copied, turns: asyncio.Semaphore) -> None:
        self._path = path
        self._peer = peer
        self._entry = entry
        self._copied = copied
        self._turns = turns
        self._is_main = relation_at(entry.path.partition(".")[0]) is not None
        self._descriptor = -1
        self._is_unlike = False
        """Most pages of the last range had other bytes: their canonical hashes are asked for at once."""

    async def copy(self) -> None:
        """On this disk when it ends. Raises OSError, WireError, ActionFailed."""
        pages = self._entry.size // PAGE_BYTES
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = await in_thread(os.open, self._path, flags, _MODE)
        try:
            async with asyncio.TaskGroup() as ranges:
                for first in range(0, pages, PAGES_MAX):
                    ranges.create_task(self._range(first, min(PAGES_MAX, pages - first)))
            await in_thread(os.fsync, self._descriptor)
        finally:
            await in_thread(os.close, self._descriptor)

    async def _range(self, first: int, count: int) -> None:
        async with self._turns:
            numbers = list(range(first, first + count))
            what = "both" if self._is_unlike and self._is_main else "raw"
            known, theirs = await asyncio.gather(
                in_thread(_own_hashes, self._path, first, count), self._ask(what, numbers)
            )
            half = len(theirs) // 2 if what == "both" else len(theirs)
            wanted, forms = parts(theirs[:half]), parts(theirs[half:])
            self._copied.pages += len(wanted)
            unlike = [at for at, digest in enumerate(wanted) if at >= len(known) or known[at] != digest]
            self._is_unlike = len(unlike) > len(wanted) // 2
            have = [at for at in unlike if at < len(known)]
            fetch = [first + at for at in unlike if at >= len(known)]
            if have and self._is_main:
                fetch += await self._compare(first, have, forms)
            else:
                fetch += [first + at for at in have]
            await self._fetch(sorted(fetch))

    async def _compare(self, first: int, have: list[int], forms: list[bytes]) -> list[int]:
        """These places of a range have other bytes. The numbers of those that differ in more than hints; the others are well
        afterwards. `forms`: the canonical hashes of the whole range, where they are here already."""
        numbers = [first + at for at in have]
        theirs = [forms[at] for at in have] if forms else parts(await self._ask("canonical", numbers))
        numbers = numbers[: len(theirs)]  # the file is shorter by now: WAL says so
        own = await in_thread(_own_pages, self._path, numbers)
        found = await in_thread(_alike, own, [self._entry.first_block + number for number in numbers], theirs)
        await in_thread(_put, self._descriptor, [numbers[at] for at in found.written], found.pages)
        self._copied.hinted += len(found.alike)
        self._copied.rewritten += len(found.written)
        return [number for at, number in enumerate(numbers) if at not in found.alike]

    async def _fetch(self, numbers: list[int]) -> None:
        if not numbers:
            return
        data = await self._ask("blocks", numbers)
        came = numbers[: len(data) // PAGE_BYTES]
        await in_thread(_put, self._descriptor, came, data)
        self._copied.fetched += len(came)

    async def _ask(self, what: str, numbers: list[int]) -> bytes:
        asked = AskPages(self._entry.path, numbers, self._entry.first_block, self._is_main, what)
        data = await self._peer.copy_pages(asked)
        self._copied.received_bytes += len(data)
        return data


class _Alike(NamedTuple):
    """Which of some pages, counted from 0, are the source's but for hints; which of these must be written anew, and as what."""

    alike: set[int]
    written: list[int]
    pages: bytes


def _alike(own: Pages, blocks: list[int], theirs: list[bytes]) -> _Alike:
    """A page without any hint of its own stays as it is, if its checksum fits: nothing on it says what the source does not."""
    pages, hinted = canonical(own, blocks, is_main=True)
    known = parts(raw_hashes(pages.reshape(-1).data))
    alike = [at for at, digest in enumerate(theirs) if known[at] == digest]
    bad = set(damaged_among(own[alike], np.array([blocks[at] for at in alike], dtype=np.uint32)))
    written = [at for at in alike if hinted[at] or blocks[at] in bad]
    out = sealed(pages[written], [blocks[at] for at in written]) if written else b""
    return _Alike(set(alike), written, out)


def _own_hashes(path: Path, first: int, count: int) -> list[bytes]:
    descriptor, _cached = open_past_cache(path)
    try:
        return parts(b"".join(raw_hashes(piece) for piece in in_pieces(descriptor, first, count)))
    finally:
        os.close(descriptor)


def _own_pages(path: Path, numbers: list[int]) -> Pages:
    descriptor, _cached = open_past_cache(path)
    try:
        return as_pages(b"".join(read_at(descriptor, first, count) for first, count in runs(numbers)))
    finally:
        os.close(descriptor)


def _put(descriptor: int, numbers: list[int], pages: bytes) -> None:
    """Each of the pages at its number, neighbours in one write."""
    at, left = 0, memoryview(pages)
    for first, count in runs(numbers):
        _put_all(descriptor, left[at : at + count * PAGE_BYTES], first * PAGE_BYTES)
        at += count * PAGE_BYTES


def _put_all(descriptor: int, data: memoryview, offset: int) -> None:
    """A disk that is nearly full may take a part only."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
