"""A standby compares its pages with its primary's, pass after pass; each node then judges its own (DESIGN section 5)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import structlog

from replication.client import AgentClient
from replication.errors import SQL_ERRORS, ActionFailed
from replication.local_node import LocalNode
from replication.model import CompareStatus, DataDirectory, FaultKind, Place, Postmaster
from replication.scrub.compare import Copies, Doubt, JudgePage, Range, Seen, doubt
from replication.scrub.copies import PAGES_MAX, read_copies
from replication.scrub.files import relation_files
from replication.scrub.findings import SUSPICION, Findings
from replication.scrub.page_judge import PageJudge
from replication.scrub.pages import Budget
from replication.scrub.relation_path import relation_at
from replication.scrub.status_compare import StatusCompare
from replication.scrub.wal_ledger import Reading
from replication.threads import in_thread
from replication.wall_clock import wall_now
from replication.wire.errors import WireError

_log = structlog.get_logger()

_IDLE_S = 1.0
_AGAIN, _PAUSE_S = 4, 0.1
_DOUBTS_A_BATCH = 20
_PAGES_AT_ONCE = 256
"""Between two looks at how busy the processors are."""
_FIRST_NORMAL_OID = 16_384  # src/include/access/transam.h
_NO_ANSWER: tuple[type[Exception], ...] = (WireError, ActionFailed, *SQL_ERRORS)


class CompareService:
    """`run` in a task group, on either role: a primary waits to be asked."""

    def __init__(
        self,
        local: LocalNode,
        findings: Findings,
        judge: PageJudge,
        transactions: StatusCompare,
        latency_ms: Callable[[], int | None],
    ) -> None:
        self.status: CompareStatus | None = None
        self._pages = 0
        self._local = local
        self._findings = findings
        self._judge = judge
        self._transactions = transactions
        self._latency_ms = latency_ms
        self._hurry = asyncio.Event()

    def hurry(self) -> None:
        """Begin a pass now, as fast as both nodes can."""
        self._hurry.set()

    async def run(self) -> None:
        """Until cancelled: pass after pass, `scrub_pause_s` apart."""
        while True:
            peer = self._peer()
            if peer is None:
                await asyncio.sleep(_IDLE_S)
                continue
            is_hurried = self._hurry.is_set()
            self._hurry.clear()
            try:
                await self._one_pass(peer, is_hurried=is_hurried)
            except _NO_ANSWER as error:
                _log.info("agent.compare_broke_off", error=repr(error)[:300])
            try:
                async with asyncio.timeout(self._local.node.settings.scrub_pause_s):
                    await self._hurry.wait()
            except TimeoutError:
                continue

    async def copies(self, ranges: list[Range]) -> Copies:
        """This node's copies of these pages. Raises OSError, ValueError; ActionFailed when PostgreSQL has not said yet where its
        last checkpoint began."""
        facts = self._local.memory.sql.facts
        timeline, redo_lsn = (facts.timeline, facts.redo_lsn or 0) if facts is not None else (0, 0)
        pages, cached = await in_thread(read_copies, self._local.node.data_dir, ranges)
        return Copies(timeline, redo_lsn, tuple(pages), cached)

    def _peer(self) -> AgentClient | None:
        """The primary that this node streams from, on its timeline, while nothing else is to be done."""
        local = self._local
        facts, upstream = local.memory.sql.facts, local.state.upstream
        fit = local.supervisor.postmaster is Postmaster.RUNNING and local.memory.doing is None
        fit = fit and not local.memory.scrub_pause.is_on
        if not fit or facts is None or not facts.in_recovery or facts.receiver is None or upstream is None:
            return None
        streams = facts.receiver.received_tli == facts.timeline and local.memory.data is DataDirectory.PRESENT
        return local.peer(upstream) if streams else None

    async def _one_pass(self, peer: AgentClient, *, is_hurried: bool) -> None:
        """What applications wrote first, and again while the catalogs, which are as much in a small clinic, take their time."""
        settings, began_s, seen = self._local.node.settings, time.monotonic(), 0
        budget = Budget(
            0.0 if is_hurried else settings.compare_mb_per_s,
            settings.scrub_latency_ms_max,
            self._local.memory.scrub_pace.share,
        )
        users, catalogs = await self._ranges()
        in_all = sum(one.count for one in (*users, *catalogs))
        await self._transactions.look(peer)
        looked_s = time.monotonic()
        for number, batch in enumerate(in_batches([*users, *catalogs], _PAGES_AT_ONCE)):
            if self._peer() is None or (self._hurry.is_set() and not is_hurried):
                return
            if _is_catalog(batch[0].path) and number and time.monotonic() - looked_s > settings.scrub_pause_s:
                for again in in_batches((await self._ranges())[0], _PAGES_AT_ONCE):
                    await self._paced(peer, again, budget)
                await self._transactions.look(peer)
                looked_s = time.monotonic()
            seen += await self._paced(peer, batch, budget)
            self._note(seen, progress=min(1.0, seen / max(1, in_all)))
        took_s = round(time.monotonic() - began_s, 1)
        passes = (self.status.passes if self.status is not None else 0) + 1
        self.status = CompareStatus(passes, 1.0, seen, wall_now(), took_s, self._pages)
        _log.info("agent.compare_pass", pages=seen, took_s=took_s)

    async def _ranges(self) -> tuple[list[Range], list[Range]]:
        """All that is there now: relations of applications, and catalogs."""
        files = await in_thread(relation_files, self._local.node.data_dir)
        main = [Range(file.path.partition(".")[0], file.first_block, file.pages) for file in files if file.pages]
        ranges = [one for one in main if relation_at(one.path) is not None]
        users = [one for one in ranges if not _is_catalog(one.path)]
        return users, [one for one in ranges if _is_catalog(one.path)]

    async def _paced(self, peer: AgentClient, batch: list[Range], budget: Budget) -> int:
        """Compare, then wait as the budget says; how many pages both have."""
        compared = await self._compare(peer, batch)
        self._pages += compared
        await asyncio.sleep(budget.waits_s(sum(one.count for one in batch), self._latency_ms()))
        return compared

    def _note(self, seen: int, *, progress: float) -> None:
        known = self.status
        self.status = CompareStatus(
            known.passes if known is not None else 0,
            round(progress, 3),
            known.pages if known is not None and known.passes else seen,
            known.ended_at if known is not None else None,
            known.took_s if known is not None else 0.0,
            self._pages,
        )

    async def _compare(self, peer: AgentClient, ranges: list[Range]) -> int:
        """Compare these; how many pages both have."""
        compared, doubts = await self._doubts(peer, ranges)
        for one, found in doubts[:_DOUBTS_A_BATCH]:
            await self._settle(peer, one, found)
        return compared

    async def _doubts(self, peer: AgentClient, ranges: list[Range]) -> tuple[int, list[tuple[Range, Doubt]]]:
        own, theirs = await asyncio.gather(self.copies(ranges), peer.copies(ranges))
        if own.timeline != theirs.timeline:
            return 0, []
        doubts: list[tuple[Range, Doubt]] = []
        compared = 0
        for one, here, there in zip(ranges, own.pages, theirs.pages, strict=True):
            for index, (ours, its) in enumerate(zip(here, there, strict=False)):
                compared += 1
                found = doubt(ours, its, own.redo_lsn, theirs.redo_lsn)
                if found is not None:
                    doubts.append((Range(one.path, one.first + index, 1), found))
        return compared, doubts

    async def _settle(self, peer: AgentClient, page: Range, found: Doubt) -> None:
        """A doubt that stays when both are read again: each node judges its own copy."""
        for _ in range(_AGAIN):
            await asyncio.sleep(_PAUSE_S)
            _, again = await self._doubts(peer, [page])
            if not again or again[0][1] is not found:
                return
        own, theirs = await asyncio.gather(self.copies([page]), peer.copies([page]))
        ours, its = _only(own), _only(theirs)
        if ours is None or its is None:
            return
        differs = found is Doubt.DIFFER
        here = await self._judge.judge(JudgePage(page.path, page.first, its.lsn, differs))
        there = await peer.judge(JudgePage(page.path, page.first, ours.lsn, differs))
        if here.guilty or there.guilty or Reading.NOT_YET in (here.reading, there.reading):
            return
        if found is Doubt.DIFFER or Reading.UNTOLD in (here.reading, there.reading):
            self._undecided(page, found, f"{here.node}: {here.sentence}; {there.node}: {there.sentence}")

    def _undecided(self, page: Range, found: Doubt, value: str) -> None:
        """The nodes disagree, and no WAL tells who is right: an alarm for a person."""
        place = Place(path=page.path, block=page.first)
        is_late = found is not Doubt.DIFFER
        sentence = (
            f"{place} is older on one node than the other, and its last checkpoint should have written it"
            if is_late
            else f"{place} differs between the nodes although it bears one LSN: a write of it was lost on one of them"
        )
        kind = FaultKind.STALE_PAGE if is_late else FaultKind.LOST_WRITE
        self._findings.add(
            kind, sentence, what="comparison with the other node", value=value, places=(place,), confidence=SUSPICION
        )


def _is_catalog(path: str) -> bool:
    relation = relation_at(path)
    return relation is None or relation.number < _FIRST_NORMAL_OID


def in_batches(ranges: list[Range], pages: int = PAGES_MAX) -> Iterator[list[Range]]:
    """The same pages in questions of at most so many."""
    batch: list[Range] = []
    room = pages
    for one in ranges:
        first, left = one.first, one.count
        while left:
            count = min(left, room)
            batch.append(Range(one.path, first, count))
            first, left, room = first + count, left - count, room - count
            if not room:
                yield batch
                batch, room = [], pages
    if batch:
        yield batch


def _only(copies: Copies) -> Seen | None:
    return copies.pages[0][0] if copies.pages and copies.pages[0] else None
