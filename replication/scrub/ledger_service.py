"""The ledger as a service: follows the node's own WAL, checks the chain in it, and after each checkpoint that what it wrote is
there (DESIGN section 5, checks 1 and 2)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg
import structlog

from replication.errors import SQL_ERRORS, ActionFailed
from replication.history import read_timeline
from replication.local_node import LocalNode
from replication.model import WAL_SEGMENT_BYTES, DataDirectory, FaultKind, LedgerStatus, Place, Postmaster, format_lsn
from replication.probes.sql import SqlFacts
from replication.relation_files import lsns_on_disk
from replication.scrub import wal_blocks
from replication.scrub.findings import Findings
from replication.scrub.pages import Budget
from replication.scrub.relation_path import fork_path
from replication.scrub.wal_ledger import Broken, Last, Ledger, Reading, Ref, Relation
from replication.scrub.wal_questions import WalQuestions
from replication.threads import in_thread

T = TypeVar("T")

_log = structlog.get_logger()

_BREAKS_OFF: tuple[type[Exception], ...] = (*SQL_ERRORS, ActionFailed)
_EVERY_S = 0.5
_STEP_BYTES = 8 * WAL_SEGMENT_BYTES
_QUIET_BYTES = 64 * 1024
_READ_PAGES = 256
_REFS_AT_ONCE = 500
_AGAIN, _PAUSE_S = 4, 0.05


class LedgerService:
    """`run` in a task group; `judge` and `explain` for others who met a page. Only touched on the event loop."""

    def __init__(self, local: LocalNode, findings: Findings, latency_ms: Callable[[], int | None]) -> None:
        self.ledger: Ledger | None = None
        self._local = local
        self._findings = findings
        self._latency_ms = latency_ms
        self.wal = WalQuestions(local)
        self._cursor = 0
        self._copy: int | None = None
        self._due: dict[Relation, dict[int, Last]] = {}
        self._verified_lsn = 0
        self._verified_blocks = 0
        self._images = 0
        self._problem: str | None = None

    async def run(self) -> None:
        """Until cancelled. Raises nothing else: what cannot be read yet is read the next time."""
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._repeat(self._follow), name="ledger-follow")
                loops.create_task(self._repeat(self._verify), name="ledger-verify")
        finally:
            self.wal.drop()

    async def _repeat(self, step: Callable[[], Awaitable[bool]]) -> None:
        while True:
            try:
                has_more = await step()
            except _BREAKS_OFF as error:
                has_more = False
                self._broke_off(error)
            await asyncio.sleep(0 if has_more else _EVERY_S)

    def status(self) -> LedgerStatus | None:
        """What it has read and verified; None before it began."""
        if self.ledger is None:
            return None
        facts = self._local.memory.sql.facts
        end = None if facts is None else _end_of(facts)
        return LedgerStatus(
            lag_bytes=0 if end is None else max(0, end - self._cursor),
            since_lsn=self.ledger.since,
            read_to_lsn=self.ledger.read_to,
            entries=len(self.ledger),
            verified_lsn=self._verified_lsn,
            unverified_bytes=max(0, self.redo_lsn - max(self._verified_lsn, self.ledger.since)),
            verified_blocks=self._verified_blocks,
            chain_checked=self.wal.has_images,
            images=self._images,
            problem=self._problem,
        )

    @property
    def read_to(self) -> int:
        """Where the WAL that it has read ends."""
        return self._cursor

    @property
    def redo_lsn(self) -> int:
        """Where the last completed checkpoint of this node began."""
        facts = self._local.memory.sql.facts
        return 0 if facts is None else facts.redo_lsn or 0

    async def is_explained(
        self, relation: Relation, block: int, since_lsn: int, *, lsn: int | None = None, until_lsn: int | None = None
    ) -> bool:
        """Whether the block may lawfully be older, or empty: its relation was cut off since, or is being built (`lsn` 0: a page
        that nobody has written yet). What WAL no longer tells counts as explained: it is no proof.

        The disk may be ahead of what the ledger has read, so all WAL is asked that is there now, after the page was read.
        """
        if self.ledger is None:
            return True
        try:
            is_cut = await self.wal.was_cut_off(relation, since_lsn, until_lsn)
            if not is_cut and lsn == 0:
                return not await self.wal.is_committed(relation)
        except (asyncpg.PostgresError, ActionFailed):
            return True
        if is_cut:
            self.ledger.forget(relation, block)
        return is_cut

    def _may_read(self) -> SqlFacts | None:
        local = self._local
        facts = local.memory.sql.facts
        fit = local.supervisor.postmaster is Postmaster.RUNNING and local.memory.doing is None
        return facts if fit and local.memory.data is DataDirectory.PRESENT and local.state.schema_applied else None

    async def _follow(self) -> bool:
        """Read the next stretch of WAL; whether there is more at once."""
        facts = self._may_read()
        if facts is None:
            self.wal.drop()
            return False
        end, redo = _end_of(facts), facts.redo_lsn
        if end is None or redo is None:
            return False
        copy = self._local.state.rebuilt_revision
        if self.ledger is None or self._copy != copy:
            self.ledger, self._cursor, self._copy = Ledger(redo), redo, copy
            self._verified_lsn, self._due = 0, {}
        ledger = self.ledger
        stop = min(end, self._cursor + _STEP_BYTES)
        if stop > self._cursor:
            await self._read(ledger, facts.timeline, stop)
        return stop < end

    async def _read(self, ledger: Ledger, timeline: int, stop: int) -> None:
        start = self._cursor
        if not self.wal.has_images:
            refs, read_to = await wal_blocks.read_refs_as_text(self._local.node, timeline, start, stop)
        else:
            refs, read_to = await self._read_sql(start, stop)
        self._cursor = read_to
        self._problem = None
        self._images += sum(ref.image_lsn is not None for ref in refs)
        for first in range(0, len(refs), _REFS_AT_ONCE):
            for broken in ledger.note(refs[first : first + _REFS_AT_ONCE], ledger.read_to):
                await self._chain_broken(broken)
            await asyncio.sleep(0)  # whoever else waits for the loop: an agent that is busy looks like a dead one
        ledger.note((), stop)

    async def _read_sql(self, start: int, stop: int) -> tuple[list[Ref], int]:
        span = start, stop
        refs = await self.wal.ask(lambda connection: wal_blocks.read_refs(connection, *span))
        if refs or stop - start < _QUIET_BYTES:
            return refs, max((ref.end_lsn for ref in refs), default=start)
        return refs, await self.wal.ask(lambda connection: wal_blocks.last_record_end(connection, *span)) or start

    async def _chain_broken(self, broken: Broken) -> None:
        if not await self._is_of_this_primary(broken.end_lsn):
            return
        path = await in_thread(fork_path, self._local.node.data_dir, broken.relation)
        place = Place(path=path, block=broken.block)
        at, before = format_lsn(broken.end_lsn), format_lsn(broken.previous_lsn)
        value = f"image with LSN {format_lsn(broken.image_lsn)} in the record that ends at {at}; its record before ended at {before}"
        kind, sentence = FaultKind.STALE_PAGE, f"{place} came back from its disk older than it was, and was changed"
        if broken.reading is Reading.MISPLACED:
            kind, sentence = (
                FaultKind.MISDIRECTED_WRITE,
                f"{place} came back from its disk as another page, and was changed",
            )
        elif broken.reading is Reading.OCCUPIED:
            if await self.is_explained(
                broken.relation, broken.block, broken.previous_lsn - 1, until_lsn=broken.end_lsn
            ):
                return
            value = f"the record that ends at {at} puts a tuple where WAL has put another before; a record before it ended at {before}"
        self._findings.add_to_primary(kind, sentence, what="chain check of WAL", value=value, places=(place,))

    async def _is_of_this_primary(self, lsn: int) -> bool:
        """A record before the fork was written by one that has been replaced since."""
        facts = self._local.memory.sql.facts
        if facts is None:
            return False
        try:
            history = await in_thread(read_timeline, self._local.node.data_dir / "pg_wal", facts.timeline)
        except (OSError, ValueError):
            return False
        return lsn > history.begins(facts.timeline)

    async def _verify(self) -> bool:
        """Every block whose last record a completed checkpoint must have written is on the disk, or was changed since."""
        ledger, redo = self.ledger, self.redo_lsn
        if ledger is None or self._may_read() is None or redo <= self._verified_lsn or redo > ledger.read_to:
            return False
        if self._local.memory.scrub_pause.is_on:
            return False
        for relation, lasts in ledger.due(redo).items():
            self._due.setdefault(relation, {}).update(lasts)  # beside what was left when the last look was broken off
        due, began_s, count = self._due, time.monotonic(), 0
        settings = self._local.node.settings
        budget = Budget(settings.scrub_mb_per_s, settings.scrub_latency_ms_max, self._local.memory.scrub_pace.share)
        for relation in sorted(due):
            if self._local.memory.scrub_pause.is_on or self.ledger is not ledger:
                return False
            count += await self._verify_relation(relation, due[relation], budget)
            del due[relation]
        self._verified_lsn = redo
        if count:
            took_s = round(time.monotonic() - began_s, 2)
            _log.info("agent.checkpoint_verified", redo=format_lsn(redo), blocks=count, took_s=took_s)
        return False

    async def _verify_relation(self, relation: Relation, lasts: dict[int, Last], budget: Budget) -> int:
        path = await in_thread(fork_path, self._local.node.data_dir, relation)
        if path is None:
            return 0
        blocks, count = sorted(lasts), 0
        for first in range(0, len(blocks), _READ_PAGES):
            some = {block: lasts[block] for block in blocks[first : first + _READ_PAGES]}
            read = await self._verify_some(relation, path, some)
            self._verified_blocks += read
            count += read
            if read:  # of a relation that was dropped there is nothing to wait for
                await asyncio.sleep(budget.waits_s(read, self._latency_ms()))
        return count

    async def _verify_some(self, relation: Relation, path: str, lasts: dict[int, Last]) -> int:
        """How many of them there are."""
        seen = await self._on_disk(path, list(lasts))
        count = len(seen)
        late = {block for block, lsn in seen.items() if lsn is not None and lsn < lasts[block].floor}
        for _ in range(_AGAIN):
            if not late:
                return count
            await asyncio.sleep(_PAUSE_S)
            seen = await self._on_disk(path, sorted(late))
            late = {block for block, lsn in seen.items() if lsn is not None and lsn < lasts[block].floor}
        for block in sorted(late):
            await self._lost(relation, path, block, seen[block] or 0, lasts[block])
        return count

    async def _lost(self, relation: Relation, path: str, block: int, lsn: int, last: Last) -> None:
        if await self.is_explained(relation, block, last.floor - 1, lsn=lsn):
            return
        place = Place(path=path, block=block)
        self._findings.add(
            FaultKind.LOST_WRITE,
            f"a write of {place} never reached the disk, although a checkpoint is complete since",
            what="verification after a checkpoint",
            value=f"LSN {format_lsn(lsn)} on the disk, {format_lsn(last.lsn)} in WAL, REDO {format_lsn(self.redo_lsn)}",
            places=(place,),
        )

    async def _on_disk(self, path: str, blocks: list[int]) -> dict[int, int | None]:
        try:
            return await in_thread(lsns_on_disk, self._local.node.data_dir, path, blocks)
        except OSError as error:
            sentence = f"the disk does not give {path}"
            self._findings.add(
                FaultKind.STORAGE_ERROR, sentence, what="verification after a checkpoint", value=repr(error)
            )
            return {}

    def _broke_off(self, error: Exception) -> None:
        """WAL that is gone, or a server that is: begin anew at the last checkpoint, from which on WAL is there."""
        said = repr(error)[:300]
        if said != self._problem:
            _log.info("agent.ledger_broke_off", error=said)
        self._problem = said
        self.wal.drop()
        facts = self._local.memory.sql.facts
        if (
            isinstance(error, asyncpg.PostgresError | ActionFailed)
            and facts is not None
            and self._cursor < (facts.redo_lsn or 0)
        ):
            self.ledger = None


def _end_of(facts: SqlFacts) -> int | None:
    """What WAL the node itself has written, or replayed: pg_walinspect reads no further."""
    return facts.replay_lsn if facts.in_recovery else facts.flush_lsn
