"""The side of the node that is copied: a backup that it began, its files, their hashes, the blocks that are asked for."""

from __future__ import annotations

import os
import time
from pathlib import Path

import asyncpg

from replication.difference.files import Unfit, is_of_a_copy, listing
from replication.difference.hashes import canonical_hashes, raw_hashes
from replication.difference.protocol import PAGES_MAX, AskPages, BeginCopy, Begun, EndedCopy
from replication.errors import SQL_ERRORS, ActionFailed
from replication.local_node import LocalNode
from replication.model import WAL_SEGMENT_BYTES, Reason
from replication.page import PAGE_BYTES, as_pages, damaged, lsns
from replication.relation_files import open_past_cache, read_at
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
        data = await in_thread(_read_pages, self._local.node.data_dir / asked.path, asked.pages, asked.first_block)
        if asked.what == "blocks":
            return data
        if asked.what == "raw":
            return await in_thread(raw_hashes, data)
        return await in_thread(_canonical_of, data, asked)

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


def _canonical_of(data: bytes, asked: AskPages) -> bytes:
    """Each page by itself: they need not be neighbours."""
    return b"".join(
        canonical_hashes(
            data[at * PAGE_BYTES : (at + 1) * PAGE_BYTES], asked.first_block + number, is_main=asked.is_main
        )
        for at, number in enumerate(asked.pages[: len(data) // PAGE_BYTES])
    )


def _read_pages(path: Path, numbers: list[int], first_block: int) -> bytes:
    """These pages, whole, up to the first that is not there. Raises OSError, ActionFailed."""
    try:
        descriptor, _cached = open_past_cache(path)
    except FileNotFoundError:
        return b""  # dropped since: WAL says so
    try:
        found = []
        for first, count in runs(numbers):
            data = _whole(descriptor, first, count, first_block, path)
            found.append(data)
            if len(data) < count * PAGE_BYTES:
                break
        return b"".join(found)
    finally:
        os.close(descriptor)


def _whole(descriptor: int, first: int, count: int, first_block: int, path: Path) -> bytes:
    data = bytearray(read_at(descriptor, first, count))
    del data[len(data) - len(data) % PAGE_BYTES :]
    pages = as_pages(bytes(data))
    for block in damaged(pages, first_block + first):
        at = block - first_block - first
        lsn = int(lsns(pages[at : at + 1])[0])
        for _ in range(_AGAIN):
            time.sleep(_PAUSE_S)
            again = read_at(descriptor, first + at, 1)
            if len(again) == PAGE_BYTES and not damaged(as_pages(again), block):
                data[at * PAGE_BYTES : (at + 1) * PAGE_BYTES] = again
                break
        else:
            raise ActionFailed(Reason.FAILED, f"block {block} of {path.name} is damaged on the source (LSN {lsn})")
    return bytes(data)


def runs(numbers: list[int]) -> list[tuple[int, int]]:
    """(first, count) of each row of neighbours."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][0] + found[-1][1]:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((number, 1))
    return found


def _read_file(path: Path) -> bytes:
    if path.stat().st_size > _FILE_BYTES_MAX:
        raise ActionFailed(Reason.FAILED, f"{path.name} is too large to be sent whole")
    return path.read_bytes()
