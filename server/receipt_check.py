"""At every new term, and when asked: is everything that was acknowledged on the new primary? Compared by content, in SQL."""

from __future__ import annotations

import asyncio
import contextlib
import time

import msgspec
import structlog

from replication.model import Receipt, ReceiptCheck, parse_lsn
from replication.topology import Phase
from server import store
from server.database import Database
from server.errors import NoConnection, TryAgain, UnexpectedDatabaseError
from server.evidence import Evidence
from server.pool import Pool
from server.receipts import Noted, Receipts
from server.reindex import reindex_damaged
from server.restore import Restored, restore
from server.retries import checking

_log = structlog.get_logger()

_BATCH = 500
_BATCH_DEADLINE_S = 10.0
_STRUCTURE_S = 60.0
_SENTENCE_CHARS_MAX = 300
_SETTLE_S = 0.5
_DOUBT_S = 60.0
_LOOK_EVERY_S = 1.0
_ALONE_EVERY_S = 10.0
_KEPT_S = 2 * 3_600.0
_MISSING_SHOWN_MAX = 20


class ReceiptChecker:
    """`run` for ever: once in every term, and whenever the primary was away; `ask` has it done again."""

    def __init__(self, database: Database, receipts: Receipts, evidence: Evidence) -> None:
        self._database = database
        self._receipts = receipts
        self._evidence = evidence
        self._checked_term: int | None = None
        self._checked_losses = 0
        self._checked_s = 0.0
        self._structure: tuple[int, tuple[str, ...] | None] = (0, None)
        """In which term it was looked at, and what was found."""
        self._begun = self._ended = 0
        """Numbers of the last check that began, and of the last that ended."""
        self._asked = asyncio.Event()
        self._done = asyncio.Condition()

    async def run(self) -> None:
        """Check once in every term; forget what is certified. Ends only when cancelled."""
        while True:
            pool = self._database.primary
            if pool is not None and self._is_due(pool):
                await self._settled(pool)
                self._asked.clear()
                await checking()(self._check_while_primary, pool)
            await self._forget()
            await self._database.changed_or_asked(self._asked, _LOOK_EVERY_S)

    def _is_due(self, pool: Pool) -> bool:
        """In a new term, after the primary was away (it may have been restarted), when somebody asked, and now and then while it
        serves alone: whether it may be copied depends on it."""
        away = self._database.losses != self._checked_losses
        topology = self._database.topology
        alone = topology is not None and topology.phase is Phase.DEGRADED
        is_damaged = bool(self._structure[1])  # until somebody has mended it
        stale = (alone or is_damaged) and time.monotonic() - self._checked_s > _ALONE_EVERY_S
        return pool.endpoint.term != self._checked_term or away or stale or self._asked.is_set()

    async def check_again(self) -> None:
        """Somebody doubts: compare all of them. Returns when that was done, or cannot be done now."""
        with contextlib.suppress(NoConnection):
            await self.ask(time.monotonic() + _DOUBT_S)

    async def ask(self, until_s: float) -> ReceiptCheck:
        """The result of a check that begins after this. Raises NoConnection when none ended by `until_s`."""
        wanted = self._begun + 1
        self._asked.set()
        try:
            async with asyncio.timeout(max(0.0, until_s - time.monotonic())), self._done:
                await self._done.wait_for(lambda: self._ended >= wanted)
        except TimeoutError:
            raise NoConnection("the receipts could not be compared in time") from None
        found = self._evidence.receipts
        if found is None:
            raise NoConnection("the receipts could not be compared")
        return found

    async def _settled(self, pool: Pool) -> None:
        """Whoever waited for the new primary comes first."""
        until_s = time.monotonic() + _SETTLE_S
        while (self._database.held or pool.proved_s is None) and time.monotonic() < until_s:
            await self._database.changed_or_asked(asyncio.Event(), 0.05)

    async def _check_while_primary(self, pool: Pool) -> None:
        if pool.is_closed:
            return  # the next term is checked instead
        losses = self._database.losses
        self._checked_s = time.monotonic()
        self._begun += 1
        number = self._begun
        try:
            result = await self._check(pool)
        except UnexpectedDatabaseError as error:
            _log.error("server.receipts_unchecked", sentence=str(error))
            self._checked_term, self._checked_losses = pool.endpoint.term, losses
            return
        self._checked_term, self._checked_losses = result.term, losses
        self._evidence.receipts_checked(result)
        is_whole = result.lost == 0 and result.double_booked == 0 and not result.structure
        log = _log.info if is_whole else _log.error
        log("server.receipts_checked", **msgspec.structs.asdict(result))
        async with self._done:
            self._ended = number
            self._done.notify_all()

    async def _check(self, pool: Pool) -> ReceiptCheck:
        async with pool.link(_BATCH_DEADLINE_S):  # until a primary that starts is there, nothing is compared with it
            began_s = time.monotonic()
        receipts = self._receipts.newest()
        missing: list[str] = []
        sealed = 0
        for start in range(0, len(receipts), _BATCH):
            batch = receipts[start : start + _BATCH]
            missing += await self._check_batch(pool, batch)
            sealed += await self._sealed(pool, batch)
        restored, put_back = 0, await restore(pool, self._receipts, missing)
        if put_back.rows:
            wanted = set(missing)
            again = await self._check_batch(
                pool, [receipt for receipt in self._receipts.newest() if receipt.id in wanted]
            )
            restored, missing = len(missing) - len(again), again
        async with pool.link(_BATCH_DEADLINE_S) as link:
            rows = await link.fetch(store.DOUBLE_BOOKED, deadline_s=_BATCH_DEADLINE_S)
        reindexed = await self._look_and_mend(pool, put_back, is_whole=not missing)
        return ReceiptCheck(
            term=pool.endpoint.term,
            acknowledged=len(receipts),
            present=len(receipts) - len(missing) - restored,
            restored=restored,
            lost=len(missing),
            double_booked=int(rows[0]["found"]),
            sealed=sealed,
            missing=tuple(missing[:_MISSING_SHOWN_MAX]),
            structure=self._structure[1],
            reindexed=reindexed,
            began_ms_ago=int((time.monotonic() - began_s) * 1000),
        )

    async def _look_and_mend(self, pool: Pool, put_back: Restored, *, is_whole: bool) -> tuple[str, ...]:
        """Have amcheck look, once in a term and for as long as it finds something; tables whose indexes were made anew. While rows
        are missing no index is: it may be all that is left of them."""
        reindexed = put_back.reindexed
        if put_back.rows and not reindexed and is_whole:
            reindexed = await reindex_damaged(pool, has_restored=True)
        if self._structure[0] != pool.endpoint.term or self._structure[1] or reindexed:
            self._structure = pool.endpoint.term, await self._look_at_structure(pool)
        if self._structure[1] and not reindexed and is_whole:
            reindexed = await reindex_damaged(pool, has_restored=False)
            if reindexed:
                self._structure = pool.endpoint.term, await self._look_at_structure(pool)
        return reindexed

    async def _look_at_structure(self, pool: Pool) -> tuple[str, ...] | None:
        """amcheck of the booking tables; None for tables that are too large for the time that an incident waits."""
        try:
            async with pool.link(_BATCH_DEADLINE_S) as link:
                (row,) = await link.fetch(store.STRUCTURE, deadline_s=_STRUCTURE_S)
        except TryAgain as error:
            if pool.is_closed:
                raise  # looked at on the next primary
            _log.warning("server.structure_unchecked", error=str(error))
            return None
        found = tuple(str(sentence)[:_SENTENCE_CHARS_MAX] for sentence in row["found"][:_MISSING_SHOWN_MAX])
        if found:
            _log.error("server.structure_damaged", found=found)
        return found

    async def _check_batch(self, pool: Pool, batch: list[Receipt]) -> list[str]:
        asked = msgspec.json.encode(
            [{"id": item.id, "version": item.version, "digest": item.digest} for item in batch]
        ).decode()
        async with pool.link(_BATCH_DEADLINE_S) as link:
            rows = await link.fetch(store.MISSING, asked, deadline_s=_BATCH_DEADLINE_S)
            (where,) = await link.fetch(store.FLUSHED, deadline_s=_BATCH_DEADLINE_S)
        missing = [str(row["id"]) for row in rows]
        noted = Noted(store.timeline_of(where["wal_file"]), where["flush_lsn"])
        self._receipts.seen([item for item in batch if item.id not in missing], noted)
        return missing

    async def _sealed(self, pool: Pool, batch: list[Receipt]) -> int:
        async with pool.link(_BATCH_DEADLINE_S) as link:
            (row,) = await link.fetch(store.SEALED, [item.id for item in batch], deadline_s=_BATCH_DEADLINE_S)
        return int(row["fitting"])

    async def _forget(self) -> None:
        record = self._database.topology
        if record is None or record.term != self._checked_term:
            return
        for standby in record.standbys:
            if standby.eligible and standby.timeline is not None and standby.certified_lsn is not None:
                await self._receipts.forget_certified(
                    standby.timeline, parse_lsn(standby.certified_lsn), kept_s=_KEPT_S
                )
