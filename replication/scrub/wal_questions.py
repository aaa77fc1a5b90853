"""What the node's own WAL is asked about one page or one relation, on a connection of its own, one question at a time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import asyncpg

from replication.errors import ActionFailed
from replication.local_node import LocalNode
from replication.model import WAL_SEGMENT_BYTES
from replication.node import DATABASE
from replication.scrub import wal_blocks
from replication.scrub.relation_path import fork_path
from replication.scrub.tuples import HeapRecord
from replication.scrub.wal_ledger import Mark, Relation
from replication.sql_write import bounded
from replication.threads import in_thread
from replication.wal_files import segment_name

T = TypeVar("T")

_LOOK_BACK_BYTES = 64 * WAL_SEGMENT_BYTES
_READ_S = 30.0
_REPLAYED_S, _PAUSE_S = 5.0, 0.05


class WalQuestions:
    """Of one node. Only touched on the event loop."""

    def __init__(self, local: LocalNode) -> None:
        self._local = local
        self._connection: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()

    @property
    def has_images(self) -> bool:
        """PostgreSQL gives the images in WAL (16 and newer)."""
        return self._local.node.installation.version[0] >= wal_blocks.BLOCK_INFO_SINCE

    async def was_cut_off(self, relation: Relation, since_lsn: int, until_lsn: int | None = None) -> bool:
        """Whether WAL from `since_lsn` on shortened the relation; what WAL no longer tells, or does not yet, counts so. The disk
        may be ahead of what anybody has read: without `until_lsn` all WAL is asked that can have changed it by now.

        Raises ActionFailed(DEADLINE) or one of SQL_ERRORS.
        """
        path = await in_thread(fork_path, self._local.node.data_dir, relation)
        end = await self._written_to() if until_lsn is None else until_lsn
        if path is None or end is None:
            return True
        return await self.ask(lambda connection: wal_blocks.was_cut_off(connection, path, since_lsn, end))

    async def is_committed(self, relation: Relation) -> bool:
        """Whether these files are a relation's of our database for everybody. Raises like `was_cut_off`."""
        return await self.ask(lambda connection: wal_blocks.is_committed(connection, relation))

    async def _written_to(self) -> int | None:
        """Where WAL ends that can have changed a page that was read before. A standby changes the disk before it says that it has
        replayed: so once it has replayed what it had received. None when it does not in time."""
        received = await self.ask(wal_blocks.received_to)
        until_s = time.monotonic() + _REPLAYED_S
        while True:
            written = await self.ask(wal_blocks.written_to)
            if received is None or written >= received:
                return written
            if time.monotonic() > until_s:
                return None
            await asyncio.sleep(_PAUSE_S)

    async def records_ending_at(self, lsn: int) -> dict[tuple[Relation, int], Mark] | None:
        """The blocks of the record that ends exactly there, and what it did to them: none when no record does; None when that WAL is
        not here any more. Raises OSError."""
        start = lsn - lsn % WAL_SEGMENT_BYTES - WAL_SEGMENT_BYTES
        try:
            if not self.has_images:
                facts = self._local.memory.sql.facts
                timeline = facts.timeline if facts is not None else 0
                refs, _ = await wal_blocks.read_refs_as_text(
                    self._local.node, timeline, max(start, WAL_SEGMENT_BYTES), lsn
                )
            else:
                span = max(start, WAL_SEGMENT_BYTES), lsn
                refs = await self.ask(lambda connection: wal_blocks.read_refs(connection, *span))
        except (asyncpg.PostgresError, ActionFailed):
            return None
        if not refs:
            return None
        return {(ref.relation, ref.block): ref.mark for ref in refs if ref.end_lsn == lsn}

    async def page_in_buffers(self, relation: Relation, block: int) -> bytes | None:
        """The page as a client would read it. Raises ActionFailed(DEADLINE) or one of SQL_ERRORS."""
        return await self.ask(lambda connection: wal_blocks.page_in_buffers(connection, relation, block))

    async def heap_records(self, relation: Relation, block: int, lsn: int) -> list[HeapRecord]:
        """The records on a heap block up to `lsn`, as far back as WAL is here within `_LOOK_BACK_BYTES`; none on PostgreSQL 15."""
        if not self.has_images:
            return []
        names = await in_thread(os.listdir, self._local.node.data_dir / "pg_wal")
        first = lsn // WAL_SEGMENT_BYTES
        facts = self._local.memory.sql.facts
        while facts is not None and lsn - first * WAL_SEGMENT_BYTES < _LOOK_BACK_BYTES:
            if not any(segment_name(tli, first - 1) in names for tli in range(1, facts.timeline + 1)):
                break
            first -= 1
        start = max(1, first) * WAL_SEGMENT_BYTES
        try:
            return await self.ask(lambda connection: wal_blocks.heap_records(connection, relation, block, start, lsn))
        except (asyncpg.PostgresError, ActionFailed):
            return []

    async def ask(self, question: Callable[[asyncpg.Connection], Coroutine[Any, Any, T]]) -> T:
        """One at a time on the one connection. Raises ActionFailed(DEADLINE) or one of SQL_ERRORS."""
        async with self._turn:
            connection = self._connection
            if connection is None or connection.is_closed():
                connection = self._connection = await self._local.node.connect(
                    database=DATABASE, application_name="locum_ledger"
                )
                if self.has_images:
                    await bounded(connection, wal_blocks.make_room(connection), deadline_s=_READ_S, what="reading WAL")
            return await bounded(connection, question(connection), deadline_s=_READ_S, what="reading WAL")

    def drop(self) -> None:
        """Let the connection go, also under a question, which then fails with one of SQL_ERRORS."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
