"""One page of this node that somebody doubts, judged by this node's own WAL (DESIGN section 5, blame and confirmation)."""

from __future__ import annotations

import asyncio

from replication.local_node import LocalNode
from replication.model import FaultKind, Place, format_lsn
from replication.page import lsn_of
from replication.page_kinds import has_rows_or_keys
from replication.relation_files import lsns_on_disk, page_on_disk
from replication.scrub.compare import Judgement, JudgePage
from replication.scrub.findings import Findings
from replication.scrub.ledger_service import LedgerService
from replication.scrub.relation_path import relation_at
from replication.scrub.tuples import altered, conflicts, proved_before, traces, without_trace
from replication.scrub.wal_ledger import FIRST_LSN, Mark, Reading, Relation
from replication.threads import in_thread

_AGAIN, _PAUSE_S = 4, 0.05


class PageJudge:
    """Guilty is the node whose page bears an LSN that is not the end of that block's last record, and ought to."""

    def __init__(self, local: LocalNode, findings: Findings, ledger: LedgerService) -> None:
        self._local = local
        self._findings = findings
        self._ledger = ledger

    async def judge(self, asked: JudgePage) -> Judgement:
        """Read the page again, and ask WAL.

        Raises OSError when the disk does not give the page, and what WalQuestions.records_ending_at raises.
        """
        path, block = asked.path, asked.block
        relation = relation_at(path)
        if asked.redo_lsn is not None and relation is not None:
            return await self._of_primary(relation, asked)
        redo_lsn = self._ledger.redo_lsn
        lsn, is_still = await self._read(path, block)
        if relation is None or lsn is None or not is_still or 0 < lsn < FIRST_LSN:
            return self._told(asked, lsn, Reading.UNTOLD, "it moved on, or is not whole")
        if await in_thread((self._local.node.data_dir / f"{path}_init").exists):
            return self._told(asked, lsn, Reading.UNTOLD, "unlogged")
        if asked.differs:
            reading, why = await self._by_tuples(relation, asked, lsn)
        else:
            reading, why = await self._by_wal(relation, block, lsn, redo_lsn, asked.peer_lsn)
        return self._told(asked, lsn, reading, why)

    async def _of_primary(self, relation: Relation, asked: JudgePage) -> Judgement:
        """Whether this primary's page, as its clients read it, is what WAL says. Its standby broke down over it."""
        page = await self._ledger.wal.page_in_buffers(relation, asked.block)
        lsn = lsn_of(page) if page is not None else None
        if page is None or lsn is None or lsn <= (asked.redo_lsn or 0):
            return self._told(asked, lsn, Reading.UNTOLD, "its page is not there, or older than the record")
        records = await self._ledger.wal.heap_records(relation, asked.block, lsn)
        expected = proved_before(records, asked.redo_lsn or 0)
        if not expected:
            return self._told(asked, lsn, Reading.UNTOLD, "WAL names no tuple on it before that record")
        missing = conflicts(records) or without_trace(page, expected)
        if missing:
            return self._told(asked, lsn, Reading.STALE, f"at LSN {format_lsn(lsn)}: {'; '.join(missing[:5])}")
        if others := altered(page, expected):
            return self._told(asked, lsn, Reading.ALTERED, f"at LSN {format_lsn(lsn)}: {'; '.join(others[:5])}")
        return self._told(asked, lsn, Reading.FITS, f"{len(expected)} tuples are as WAL says")

    async def _by_tuples(self, relation: Relation, asked: JudgePage, lsn: int) -> tuple[Reading, str]:
        """Whether everything that WAL put on a heap page since its last image is there, and as it was put there."""
        expected = traces(await self._ledger.wal.heap_records(relation, asked.block, lsn))
        page = await in_thread(page_on_disk, self._local.node.data_dir, asked.path, asked.block)
        if not expected or page is None or lsn_of(page) != lsn:
            return Reading.UNTOLD, "WAL names no tuple on it since its last image"
        if not has_rows_or_keys(page):
            return Reading.UNTOLD, "it is an index's, whose entries are not looked up in WAL"
        missing = without_trace(page, expected)
        if missing:
            return Reading.STALE, f"at LSN {format_lsn(lsn)}: {'; '.join(missing[:5])}"
        if others := altered(page, expected):
            return Reading.ALTERED, f"at LSN {format_lsn(lsn)}: {'; '.join(others[:5])}"
        return Reading.FITS, f"{len(expected)} tuples are as WAL says"

    async def _by_wal(
        self, relation: Relation, block: int, lsn: int, redo_lsn: int, peer_lsn: int | None
    ) -> tuple[Reading, str]:
        ledger = self._ledger.ledger
        reading = ledger.judge(relation, block, lsn, redo_lsn) if ledger is not None else Reading.UNTOLD
        last = ledger.last(relation, block) if ledger is not None else None
        here = f"LSN {format_lsn(lsn)} on the disk"
        if reading is Reading.STALE and last is not None:
            if await self._ledger.is_explained(relation, block, last.floor - 1, lsn=lsn):
                return Reading.UNTOLD, f"{here}; its relation was cut off since"
            return reading, f"{here}, {format_lsn(last.lsn)} in WAL, REDO {format_lsn(redo_lsn)}"
        if reading is Reading.FITS:
            return reading, f"{here}, as in WAL"
        if reading is Reading.NOT_YET or (ledger is not None and peer_lsn is not None and peer_lsn > ledger.read_to):
            return (
                Reading.NOT_YET,
                f"{here}, and WAL is read up to {format_lsn(ledger.read_to if ledger is not None else 0)}",
            )
        if lsn >= FIRST_LSN and (reading is Reading.MISPLACED or peer_lsn is not None):
            misplaced = await self._of_somewhere_else(relation, block, lsn)
            if misplaced is not None:
                return Reading.MISPLACED, f"{here}, which is the end of a record of {misplaced}"
        if peer_lsn is not None and lsn < peer_lsn <= redo_lsn:
            enders = await self._ledger.wal.records_ending_at(peer_lsn)
            if (
                enders is not None
                and enders.get((relation, block)) is Mark.SET
                and not await self._ledger.is_explained(relation, block, lsn, lsn=lsn)
            ):
                return Reading.STALE, f"{here}, a record at {format_lsn(peer_lsn)} in WAL, REDO {format_lsn(redo_lsn)}"
        return Reading.UNTOLD, f"{here}; WAL that would tell is not here any more"

    async def _of_somewhere_else(self, relation: Relation, block: int, lsn: int) -> str | None:
        """What the page's LSN is the end of, when that is not this block; None when it is, or WAL no longer tells. A database
        that was copied file by file keeps the LSNs of its template (dbcommands.c, CREATE DATABASE … STRATEGY file_copy)."""
        enders = await self._ledger.wal.records_ending_at(lsn)
        if enders is None or any(other.number == relation.number and number == block for other, number in enders):
            return None
        return (
            ", ".join(f"block {number} of file {other.number}" for other, number in sorted(enders)[:3])
            or "no page at all"
        )

    async def _read(self, path: str, block: int) -> tuple[int | None, bool]:
        """The page's LSN on the disk, and whether it stood still while it was read again and again."""
        first: int | None = None
        for turn in range(_AGAIN):
            found = await in_thread(lsns_on_disk, self._local.node.data_dir, path, [block])
            if block not in found or found[block] is None or (turn > 0 and found[block] != first):
                return found.get(block), False
            first = found[block]
            await asyncio.sleep(_PAUSE_S)
        return first, True

    def _told(self, asked: JudgePage, lsn: int | None, reading: Reading, why: str) -> Judgement:
        """The judgement; a guilty page becomes a fault of this node."""
        place = Place(path=asked.path, block=asked.block)
        older = "is older on the disk than the last checkpoint left it"
        if asked.differs:
            older = "has lost a write that a later one was made upon"
        elif asked.redo_lsn is not None:
            older = "is not what WAL says: its standby's recovery broke off over what was written upon it"
        words = {
            Reading.STALE: f"{place} {older}",
            Reading.MISPLACED: f"{place} holds a page that belongs elsewhere",
            Reading.ALTERED: f"{place} holds other bytes than WAL has, under a checksum that fits",
            Reading.FITS: f"{place} is as WAL says",
            Reading.UNTOLD: f"{place} cannot be judged: {why}",
            Reading.NOT_YET: f"{place} cannot be judged yet: {why}",
        }
        kind = _fault_of(reading, differs=asked.differs)
        if kind is not None:
            self._findings.add(kind, words[reading], what="page on the disk against WAL", value=why, places=(place,))
        return Judgement(self._local.node.name, lsn, reading.value, kind is not None, words[reading])


def _fault_of(reading: Reading, *, differs: bool) -> FaultKind | None:
    """What a page that is read so is guilty of."""
    if reading is Reading.STALE:
        return FaultKind.LOST_WRITE if differs else FaultKind.STALE_PAGE
    return {Reading.MISPLACED: FaultKind.MISDIRECTED_WRITE, Reading.ALTERED: FaultKind.PAGE_CORRUPT}.get(reading)
