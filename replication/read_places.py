"""ReadPlaces: what is damaged on the primary is read on the candidate before it is promoted (DESIGN section 5).

From disk (checksum and header of each page) and through shared buffers (amcheck for heaps and B-trees, a plain read for
the rest). The blocks that the errors named come first; the whole relation follows as far as the deadline lets it.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from replication.actions import ReadPlaces
from replication.errors import ActionFailed
from replication.local_node import LocalNode, Outcome
from replication.model import Evidence, Fault, FaultKind, Place, PlacesRead, Reason
from replication.relation_files import batches, damaged_blocks, pages_of
from replication.relations import Relation, relations_of
from replication.retries import replay_conflicts
from replication.sql_write import bounded
from replication.threads import in_thread
from replication.wall_clock import wall_now

T = TypeVar("T")

_DAMAGE = (asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError, asyncpg.PostgresIOError, asyncpg.UndefinedFileError)
_BLOCK = "SELECT length(get_raw_page($1, 'main', $2))"
_EVERY_BLOCK = "SELECT sum(length(get_raw_page($1, 'main', b))) FROM generate_series(0, $2::bigint - 1) b"
_HEAP = "SELECT blkno, msg FROM verify_heapam($1::bigint::oid::regclass) LIMIT 1"
_BTREE = "SELECT bt_index_check($1::bigint::oid::regclass)"
_SIZE = "SELECT pg_relation_size($1::bigint::oid) / current_setting('block_size')::bigint"


async def read_places(local: LocalNode, op: ReadPlaces, revision: int) -> Outcome:
    """Read them; the finding is in `places_read`, and damage becomes a fault of this node at once.

    Raises ActionFailed: DEADLINE when not even the named blocks could be read, FAILED when a relation cannot be found.
    """
    reading = _Reading(local, time.monotonic() + op.deadline_ms / 1000)
    files = [place for place in op.places if place.path is not None and not place.path.startswith(("base/", "global/"))]
    async with relations_of(local.node, [place for place in op.places if place not in files]) as relations:
        for relation in relations:
            await reading.named_blocks(relation)
        await reading.plain_files(files)
        complete = await reading.whole(relations)
    sentence = reading.sentence(complete=complete)
    found = PlacesRead(revision, not reading.damaged, sentence, reading.pages, complete, tuple(reading.damaged))
    if reading.damaged:
        local.memory.log_faults.add(_fault(local.node.name, sentence, reading))
        local.publish("places_damaged")
    return Outcome(sentence, {"places_read": found})


@dataclass
class _Reading:
    local: LocalNode
    until_s: float
    pages: int = 0
    damaged: list[Place] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    async def named_blocks(self, relation: Relation) -> None:
        """The blocks that an error named, from disk and through shared buffers. Raises ActionFailed(DEADLINE)."""
        pages = await self._on_disk(relation, [(block, 1) for block in relation.blocks])
        size = int(await relation.connection.fetchval(_SIZE, relation.oid))
        for block in relation.blocks:
            if block < size:
                await self._ask(relation, block, _BLOCK, relation.name, block)
        self.pages += pages

    async def plain_files(self, places: list[Place]) -> None:
        """Files without page checksums: readable to their end. WAL is each node's own and not looked at."""
        for place in places:
            if place.path is None or place.path.startswith("pg_wal/"):
                continue
            try:
                await in_thread((self.local.node.data_dir / place.path).read_bytes)
            except OSError as error:
                self._note(place, f"{place.path}: {error.strerror}")

    async def whole(self, relations: list[Relation]) -> bool:
        """Every page of the relations; False when the deadline came first."""
        try:
            for relation in relations:
                pages = await in_thread(pages_of, self.local.node.data_dir, relation.path)
                self.pages += await self._on_disk(relation, list(batches(pages)))
                await self._through_buffers(relation)
        except ActionFailed as error:
            if error.reason is not Reason.DEADLINE:
                raise
            return False
        return True

    def sentence(self, *, complete: bool) -> str:
        """The finding, for a person."""
        if self.said:
            return "; ".join(self.said)
        rest = "" if complete else ", the rest of their relations was not read in time"
        return f"the places that are damaged on the primary are clean here: {self.pages} pages read{rest}"

    async def _on_disk(self, relation: Relation, ranges: list[tuple[int, int]]) -> int:
        data_dir, read = self.local.node.data_dir, 0
        for first, count in ranges:
            self._check_time()
            try:
                bad = await in_thread(_damaged_in, data_dir, relation.path, first, count)
            except OSError as error:
                self._note(Place(relation.path, block=first), f"{relation.name}: {error.strerror} on disk")
                continue
            for block in bad:
                self._note(Place(relation.path, block=block), f"block {block} of {relation.name} is damaged on disk")
            read += count
        return read

    async def _through_buffers(self, relation: Relation) -> None:
        if relation.kind in "rmt":
            row = await self._ask(relation, None, _HEAP, relation.oid)
            if row is not None:
                self._note(Place(relation.path), f"{relation.name} is damaged: amcheck found a bad tuple")
            return
        if relation.method == "btree":
            await self._ask(relation, None, _BTREE, relation.oid)
            return
        size = int(await relation.connection.fetchval(_SIZE, relation.oid))
        await self._ask(relation, None, _EVERY_BLOCK, relation.name, size)

    async def _ask(self, relation: Relation, block: int | None, sql: str, *args: object) -> Any:
        self._check_time()
        asked: Coroutine[Any, Any, Any] = replay_conflicts(every_ms=20)(relation.connection.fetchval, sql, *args)
        try:
            return await self._bounded(relation, asked)
        except _DAMAGE as error:
            self._note(Place(relation.path, block=block), f"{relation.name}: {error}")
            return None

    async def _bounded(self, relation: Relation, work: Coroutine[Any, Any, T]) -> T:
        left_s = max(0.001, self.until_s - time.monotonic())
        return await bounded(relation.connection, work, deadline_s=left_s, what=f"reading {relation.name}")

    def _check_time(self) -> None:
        if time.monotonic() >= self.until_s:
            raise ActionFailed(Reason.DEADLINE, "the damaged places could not be read here in time")

    def _note(self, place: Place, sentence: str) -> None:
        self.damaged.append(place)
        self.said.append(sentence)


def _damaged_in(data_dir: Path, path: str, first: int, count: int) -> list[int]:
    """Blocks beyond the file's end are not there yet on this node, and so not damaged."""
    there = pages_of(data_dir, path)
    return damaged_blocks(data_dir, path, first, max(0, min(count, there - first)))


def _fault(node: str, sentence: str, reading: _Reading) -> Fault:
    at = wall_now()
    evidence = Evidence("pages read before a promotion", f"agent {node}", at, sentence)
    said = f"node {node} is damaged too: {sentence}"
    return Fault(FaultKind.PAGE_CORRUPT, 1.0, at, said, (evidence,), tuple(reading.damaged[:20]))
