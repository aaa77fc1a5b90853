"""The page scrub as a service: pass after pass within a budget, resumed after a restart, told in the report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import structlog

from replication.errors import SQL_ERRORS, ActionFailed
from replication.local_node import LocalNode
from replication.memory import clock_ms
from replication.model import FREE_SPACE_MAP, DataDirectory, FaultKind, Place, ScrubStatus
from replication.scrub.compare import JudgePage
from replication.scrub.findings import PROOF, SUSPICION, Findings
from replication.scrub.ledger_service import LedgerService
from replication.scrub.page_judge import PageJudge
from replication.scrub.pages import BadPage, Batch, Budget, PagePass, Position
from replication.scrub.relation_path import relation_at
from replication.scrub.wal_ledger import Reading
from replication.threads import in_thread
from replication.wall_clock import wall_now
from replication.wire.secrets import write_private

_log = structlog.get_logger()

_IDLE_S = 0.2
_NO_ANSWER: tuple[type[Exception], ...] = (ActionFailed, *SQL_ERRORS)
_KEEP_EVERY_S = 5.0
_FILE = "scrub.json"


class _Kept(msgspec.Struct, frozen=True):
    """What survives the agent: where the pass is, and of which copy of the data."""

    rebuilt_revision: int
    position: Position


class PageScrub:
    """`latency_ms` is how long this node's last commit took, or None."""

    def __init__(
        self,
        local: LocalNode,
        findings: Findings,
        judge: PageJudge,
        ledger: LedgerService,
        latency_ms: Callable[[], int | None],
    ) -> None:
        self.status: ScrubStatus | None = None
        self._local = local
        self._findings = findings
        self._judge = judge
        self._ledger = ledger
        self._latency_ms = latency_ms
        self._hurry = asyncio.Event()
        self._kept_s = 0.0

    def hurry(self) -> None:
        """Begin a pass now, and make it as fast as the disk is; one that is under way begins anew."""
        self._hurry.set()

    async def run(self) -> None:
        """Until cancelled: pass after pass, `scrub_pause_s` apart."""
        position = await self._resumed()
        while True:
            if not self._may_read():
                await asyncio.sleep(_IDLE_S)
                continue
            is_hurried = self._hurry.is_set()
            self._hurry.clear()
            await self._one_pass(Position() if is_hurried else position, is_hurried=is_hurried)
            position = Position()
            try:
                async with asyncio.timeout(self._local.node.settings.scrub_pause_s):
                    await self._hurry.wait()
            except TimeoutError:
                continue

    def _may_read(self) -> bool:
        """There is something whole to read, and no action needs the disk or the processor more."""
        memory = self._local.memory
        return memory.data is DataDirectory.PRESENT and memory.doing is None and not memory.scrub_pause.is_on

    async def _one_pass(self, position: Position, *, is_hurried: bool) -> None:
        settings, began_s = self._local.node.settings, time.monotonic()
        copy = self._local.state.rebuilt_revision
        budget = Budget(
            0.0 if is_hurried else settings.scrub_mb_per_s,
            settings.scrub_latency_ms_max,
            self._local.memory.scrub_pace.share,
        )
        work = PagePass(self._local.node.data_dir, position, reads_ahead=is_hurried)
        bad, cached = 0, False
        try:
            while (batch := await in_thread(work.step)) is not None:
                bad += len(batch.bad)
                cached = cached or batch.cached
                self._note(batch, work.position, cached=cached)
                await self._ask_ledger(batch)
                if (self._hurry.is_set() and not is_hurried) or copy != self._local.state.rebuilt_revision:
                    return
                await self._keep(copy, work.position)
                await asyncio.sleep(budget.waits_s(batch.pages, self._latency_ms()))
                while not self._may_read():
                    await asyncio.sleep(_IDLE_S)
        except FileNotFoundError:
            return  # it is being made anew, or is gone, which the look at the data directory tells
        except OSError as error:
            self._findings.add(
                FaultKind.STORAGE_ERROR, "its data directory cannot be listed", what="page scrub", value=repr(error)
            )
            return
        finally:
            work.close()
        took_s = max(0.001, time.monotonic() - began_s)
        known = self.status
        self.status = ScrubStatus(
            passes=(known.passes if known is not None else 0) + 1,
            progress=1.0,
            pages=work.position.pages_read,
            bad=bad,
            cached=cached,
            ended_at=wall_now(),
            took_s=round(took_s, 1),
        )
        _log.info("agent.scrub_pass", pages=work.position.pages_read, bad=bad, cached=cached, took_s=round(took_s, 1))

    def _note(self, batch: Batch, position: Position, *, cached: bool) -> None:
        known = self.status or ScrubStatus()
        share = position.pages_read / max(1, position.pages_in_all)
        self.status = msgspec.structs.replace(known, progress=round(min(1.0, share), 3), cached=cached)
        for page in batch.bad:
            self._found(page, cached=batch.cached)
        if batch.fork.endswith(FREE_SPACE_MAP):
            whole = set(range(batch.first_block, batch.first_block + batch.pages)) - {page.block for page in batch.bad}
            self._findings.disprove(
                FaultKind.PAGE_CORRUPT, lambda place: place.path == batch.fork and place.block in whole
            )

    async def _ask_ledger(self, batch: Batch) -> None:
        """A whole page may still be an old one, or another's: WAL tells."""
        ledger, relation = self._ledger.ledger, relation_at(batch.fork)
        if ledger is None or relation is None:
            return
        redo_lsn = self._ledger.redo_lsn
        for offset, lsn in enumerate(batch.lsns):
            block = batch.first_block + offset
            if ledger.judge(relation, block, lsn, redo_lsn) not in (Reading.STALE, Reading.MISPLACED):
                continue
            try:
                await self._judge.judge(JudgePage(batch.fork, block))
            except _NO_ANSWER as error:
                _log.info("agent.page_not_judged", path=batch.fork, block=block, error=repr(error)[:300])

    def _found(self, page: BadPage, *, cached: bool) -> None:
        place = Place(path=page.path, block=page.block)
        how = "read through the kernel's cache" if cached else "read from the disk"
        if page.error is not None:
            sentence, kind = f"the disk does not give {place}", FaultKind.STORAGE_ERROR
            self._findings.add(kind, sentence, what=f"page scrub, {how}", value=page.error, places=(place,))
            return
        self._findings.add(
            FaultKind.PAGE_CORRUPT,
            f"{place} is damaged: its checksum or header does not fit, four times read",
            what=f"page scrub, {how}",
            value=str(place),
            places=(place,),
            # A map of free space is a hint, written without WAL: a crash may tear it, and PostgreSQL then makes it anew.
            confidence=SUSPICION if page.path.endswith(FREE_SPACE_MAP) else PROOF,
        )

    async def _resumed(self) -> Position:
        path = self._local.node.settings.state_dir / _FILE
        try:
            kept = msgspec.json.decode(await in_thread(path.read_bytes), type=_Kept)
        except (OSError, msgspec.DecodeError):
            return Position()
        same = kept.rebuilt_revision == self._local.state.rebuilt_revision
        return Position(kept.position.file, kept.position.page) if same else Position()

    async def _keep(self, copy: int, position: Position) -> None:
        if clock_ms() / 1000 - self._kept_s < _KEEP_EVERY_S:
            return
        self._kept_s = clock_ms() / 1000
        text = msgspec.json.encode(_Kept(copy, position)).decode()
        try:
            await in_thread(write_private, self._local.node.settings.state_dir / _FILE, text)
        except OSError as error:
            _log.warning("agent.scrub_position_unwritable", error=error.strerror)
