"""After a backend of PostgreSQL crashed by itself: does the disk hold a page that belongs elsewhere?

PostgreSQL trusts a page whose checksum fits. One of another table makes it read bytes as what they are not, and it dies of a signal
before it can say what of. It cannot be asked any more; its files and its WAL can: the page's LSN is the end of a record of some other
block. That is proof at whatever moment it died, since a page that was only not written yet bears the LSN of a record of its own.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import defaultdict
from typing import NamedTuple

import structlog

from replication.errors import ActionFailed, WalUnavailable
from replication.history import read_timeline
from replication.local_node import LocalNode
from replication.model import WAL_SEGMENT_BYTES, FaultKind, Place, format_lsn
from replication.page_size import PAGE_BYTES
from replication.relation_files import lsns_on_disk
from replication.scrub import wal_blocks
from replication.scrub.findings import Findings
from replication.scrub.ledger_service import LedgerService
from replication.scrub.relation_path import fork_path
from replication.scrub.wal_ledger import FIRST_LSN, Ref, Relation
from replication.threads import in_thread
from replication.wal_files import contiguous_end, segment_name, segment_start

_log = structlog.get_logger()

CRASHED = re.compile(r"was terminated by signal (?:6|7|11)\b")
"""SIGABRT, SIGBUS and SIGSEGV (signal(7)): nobody sends these, a process earns them (src/backend/postmaster/postmaster.c)."""
_FIRST_NORMAL_OID = 16_384
_STRETCHES_MAX = 20
_APART_BYTES = 1024 * 1024
_RECORD_BYTES = 128 * 1024
"""So far before its end a record begins: those with images of several pages are the longest that pages have."""
WITHIN_S = 5.0
"""Nobody waits for it but the rebuild of this node."""


class Suspect(NamedTuple):
    """A page of this block bears this LSN on the disk."""

    lsn: int
    relation: Relation
    block: int


def by_stretch(suspects: list[Suspect]) -> list[list[Suspect]]:
    """In stretches of WAL that are read in one go, the shortest first. Pure."""
    stretches: list[list[Suspect]] = []
    for suspect in sorted(suspects, key=lambda one: one.lsn):
        if not stretches or suspect.lsn - stretches[-1][-1].lsn > _APART_BYTES:
            stretches.append([])
        stretches[-1].append(suspect)
    return sorted(stretches, key=lambda one: one[-1].lsn - one[0].lsn)[:_STRETCHES_MAX]


class PostMortem:
    """`look` once after such a death, before the node is made anew."""

    def __init__(self, local: LocalNode, findings: Findings, ledger: LedgerService) -> None:
        self._local = local
        self._findings = findings
        self._ledger = ledger
        self.looks = 0
        """How many have ended."""

    async def look(self) -> None:
        """Raises nothing but cancellation: what is gone already cannot be looked at."""
        self._local.memory.looked_back.clear()
        try:
            await self._look()
        finally:
            self.looks += 1
            self._local.memory.looked_back.set()

    async def _look(self) -> None:
        facts = self._local.memory.sql.facts
        timeline = facts.timeline if facts is not None else None
        if timeline is None:
            return
        try:
            async with asyncio.timeout(WITHIN_S):
                all_suspects = await self._suspects(timeline)
                _log.info("agent.post_mortem", pages_not_as_wal_has_them=len(all_suspects))
                for stretch in by_stretch(all_suspects):
                    enders = await self._enders(timeline, stretch[0].lsn, stretch[-1].lsn)
                    for lsn, relation, block in stretch:
                        if lsn in enders and (relation, block) not in enders[lsn]:
                            await self._found(relation, block, lsn)
        except (OSError, TimeoutError) as error:
            _log.info("agent.post_mortem_broke_off", error=repr(error)[:200])

    async def _suspects(self, timeline: int) -> list[Suspect]:
        """Pages that are not on the disk as WAL has them: most were only not written yet."""
        found: list[Suspect] = []
        for relation, lasts in (await self._lasts(timeline)).items():
            path = await in_thread(fork_path, self._local.node.data_dir, relation)
            if path is None or relation.number < _FIRST_NORMAL_OID:
                continue
            seen = await in_thread(lsns_on_disk, self._local.node.data_dir, path, sorted(lasts))
            found += [
                Suspect(lsn, relation, block)
                for block, lsn in seen.items()
                if lsn is not None and lsn >= FIRST_LSN and lsn != lasts[block]
            ]
        return found

    async def _lasts(self, timeline: int) -> dict[Relation, dict[int, int]]:
        """Where each block's last record ended: as the ledger has it, and what it had not read yet when the process died. A page may
        be younger than its last look, half a second ago."""
        ledger = self._ledger.ledger
        if ledger is None:
            return {}
        lasts = {
            relation: {block: last.lsn for block, last in blocks.items()} for relation, blocks in ledger.known().items()
        }
        start, pg_wal = self._ledger.read_to, self._local.node.data_dir / "pg_wal"
        try:
            history = await in_thread(read_timeline, pg_wal, timeline)
            stop = await in_thread(contiguous_end, pg_wal, history, start)
            refs, _ = await wal_blocks.read_refs_as_text(self._local.node, timeline, start, stop)
        except (ActionFailed, WalUnavailable, OSError, ValueError) as error:
            _log.info("agent.post_mortem_without_wal", error=str(error)[:200])
            return lasts
        for ref in refs:
            lasts.setdefault(ref.relation, {})[ref.block] = ref.end_lsn
        return lasts

    async def _enders(self, timeline: int, first: int, last: int) -> dict[int, set[tuple[Relation, int]]]:
        """Of each record that ends from `first` to `last`, the blocks that it changed; of those in the middle of which WAL begins now,
        none. What lies before a switch to a new segment is zero, and nothing can be read from there on: then from the new one."""
        start = max(first - _RECORD_BYTES, 0) // PAGE_BYTES * PAGE_BYTES
        names = await in_thread(os.listdir, self._local.node.data_dir / "pg_wal")
        number = (last - 1) // WAL_SEGMENT_BYTES
        while number * WAL_SEGMENT_BYTES > start and segment_name(timeline, number - 1) in names:
            number -= 1
        start = max(start, number * WAL_SEGMENT_BYTES)
        refs: list[Ref] = []
        for begin in (start, *range(segment_start(start) + WAL_SEGMENT_BYTES, last, WAL_SEGMENT_BYTES)):
            try:
                refs, _ = await wal_blocks.read_refs_as_text(self._local.node, timeline, begin, last)
                break
            except ActionFailed as error:
                _log.info("agent.post_mortem_without_wal", error=str(error)[:200])
        enders: dict[int, set[tuple[Relation, int]]] = defaultdict(set)
        for ref in refs:
            enders[ref.end_lsn].add((ref.relation, ref.block))
        return enders

    async def _found(self, relation: Relation, block: int, lsn: int) -> None:
        path = await in_thread(fork_path, self._local.node.data_dir, relation)
        place = Place(path=path, block=block)
        self._findings.add(
            FaultKind.MISDIRECTED_WRITE,
            f"{place} holds a page that belongs elsewhere, and a process of PostgreSQL crashed",
            what="pages on the disk against WAL, after a crash",
            value=f"LSN {format_lsn(lsn)} on the disk, which is the end of a record of another block",
            places=(place,),
        )
