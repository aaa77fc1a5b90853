"""The side of the node that is copied: a backup that it began, its files, their hashes, the blocks that are asked for."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import numpy as np

from replication.difference.files import Unfit, is_of_a_copy, listing
from replication.difference.hashes import canonical_hashes, raw_hashes
from replication.difference.protocol import PAGES_MAX, AskPages, BeginCopy, Begun, EndedCopy, runs
from replication.errors import SQL_ERRORS, ActionFailed
from replication.local_node import LocalNode
from replication.model import WAL_SEGMENT_BYTES, Reason
from replication.page import as_pages, damaged, damaged_among
from replication.page_size import PAGE_BYTES
from replication.relation_files import in_pieces
from replication.sql_write import bounded
from replication.threads import in_thread
from replication.wal_files import segment_name

_START_S, _STOP_S = 400.0, 60.0
_AGAIN, _PAUSE_S = 4, 0.02
_START = "SELECT (pg_backup_start($1, $2) - '0/0')::bigint"
_STOP = "SELECT (lsn - '0/0')::bigint AS lsn, labelfile FROM pg_backup_stop(false)"
_CANNOT: tuple[type[Exception], ...] = (*SQL_ERRORS, Unfit)
_FILE_BYTES_MAX = 256 * 1024 * 1024


class CopySource:
    """One copy at a time: who begins another has given up the one before."""

    def __init__(self, local: LocalNode) -> None:
        self._local = local
        self._connection: asyncpg.Connection | None = None
        self._start_lsn = 0

    async def begin(self, asked: BeginCopy) -> Begun:
        """Raises ActionFailed."""
        self.close()
        try:
            self._connection = await self._local.node.connect(application_name=asked.label)
            work = self._connection.fetchval(_START, asked.label, asked.fast)
            self._start_lsn = int(await bounded(self._connection, work, deadline_s=_START_S, what="beginning a backup"))
            found = await in_thread(listing, self._local.node.data_dir)
        except _CANNOT as error:
            self.close()
            raise ActionFailed(Reason.FAILED, f"a copy of this node cannot begin: {error}") from error
        return Begun(self._start_lsn, found)

    async def pages(self, asked: AskPages) -> bytes:
        """Raises ActionFailed: a page is damaged here, or nothing was begun; OSError."""
        self._check()
        if not is_of_a_copy(asked.path) or len(asked.pages) > PAGES_MAX:
            raise ActionFailed(Reason.FAILED, f"{asked.path!r} or that many pages cannot be asked for")
        path = self._local.node.data_dir / asked.path
        if asked.what == "blocks":
            return await in_thread(_whole_pages, path, asked)
        return await in_thread(_hashes_of, path, asked)

    async def file(self, path: str) -> bytes:
        """A whole file. Raises ActionFailed, OSError."""
        self._check()
        if not is_of_a_copy(path):
            raise ActionFailed(Reason.FAILED, f"{path!r} cannot be asked for")
        return await in_thread(_read_file, self._local.node.data_dir / path)

    async def end(self) -> EndedCopy:
        """End the backup; the segments stay there until they were fetched, by the slot. Raises ActionFailed."""
        connection = self._check()
        facts = self._local.memory.sql.facts
        try:
            row = await bounded(connection, connection.fetchrow(_STOP), deadline_s=_STOP_S, what="ending a backup")
        except SQL_ERRORS as error:
            raise ActionFailed(Reason.FAILED, f"the backup cannot be ended: {error}") from error
        finally:
            connection.terminate()
            self._connection = None
        timeline = facts.timeline if facts is not None else 0
        numbers = range(self._start_lsn // WAL_SEGMENT_BYTES, int(row["lsn"] - 1) // WAL_SEGMENT_BYTES + 1)
        return EndedCopy(row["labelfile"], tuple(segment_name(timeline, number) for number in numbers))

    async def wal(self, name: str) -> bytes:
        """A segment of pg_wal, or a history file. Raises OSError."""
        if not is_of_a_copy(name) or "/" in name:
            raise ActionFailed(Reason.FAILED, f"{name!r} is no file of WAL")
        return await in_thread((self._local.node.data_dir / "pg_wal" / name).read_bytes)

    def close(self) -> None:
        """Give the backup up: its session ends it."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    def _check(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            raise ActionFailed(Reason.WRONG_STATE, "no copy of this node is under way")
        return self._connection


def _hashes_of(path: Path, asked: AskPages) -> bytes:
    """Hashes of what PostgreSQL has written, on the disk or not yet. A page that is equal there needs no other look: the copy's
    scrub reads it from its own disk. One that is torn or damaged is like none of the copy's, so that its bytes are asked for."""
    raw, forms = [], []
    for block, piece in _pieces(path, asked):
        if asked.what != "canonical":
            raw.append(raw_hashes(piece))
        if asked.what != "raw":
            blocks = list(range(block, block + len(piece) // PAGE_BYTES))
            forms.append(canonical_hashes(as_pages(piece), blocks, is_main=asked.is_main))
    return b"".join([*raw, *forms])


def _pieces(path: Path, asked: AskPages) -> Iterator[tuple[int, memoryview]]:
    """(block of the first page, pages) up to the first that is not there. Raises OSError."""
    try:
        with path.open("rb", buffering=0) as file:
            for first, count in runs(asked.pages):
                number = first
                for piece in in_pieces(file.fileno(), first, count):
                    yield asked.first_block + number, piece
                    number += len(piece) // PAGE_BYTES
                if number < first + count:
                    return
    except FileNotFoundError:
        return  # dropped since: WAL says so


def _whole_pages(path: Path, asked: AskPages) -> bytes:
    """These pages, whole, up to the first that is not there. Raises OSError, ActionFailed."""
    found = bytearray()
    for _block, piece in _pieces(path, asked):
        found += piece
    try:
        with path.open("rb", buffering=0) as file:
            _make_whole(file.fileno(), found, asked.pages, asked.first_block, path.name)
    except FileNotFoundError:
        return b""  # dropped since: WAL says so
    return bytes(found)


def _make_whole(descriptor: int, data: bytearray, numbers: list[int], first_block: int, name: str) -> None:
    """A page that was being written may be seen torn: such a one is read again. Raises ActionFailed."""
    pages = as_pages(bytes(data))
    blocks = np.array(numbers[: len(pages)], dtype=np.uint32) + np.uint32(first_block)
    for block in damaged_among(pages, blocks):
        at = numbers.index(block - first_block)
        for _ in range(_AGAIN):
            time.sleep(_PAUSE_S)
            again = os.pread(descriptor, PAGE_BYTES, (block - first_block) * PAGE_BYTES)
            if len(again) == PAGE_BYTES and not damaged(as_pages(again), block):
                data[at * PAGE_BYTES : (at + 1) * PAGE_BYTES] = again
                break
        else:
            raise ActionFailed(Reason.FAILED, f"block {block} of {name} is damaged on the source")


def _read_file(path: Path) -> bytes:
    if path.stat().st_size > _FILE_BYTES_MAX:
        raise ActionFailed(Reason.FAILED, f"{path.name} is too large to be sent whole")
    return path.read_bytes()
