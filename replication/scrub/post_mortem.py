"""After a backend of PostgreSQL crashed by itself: does the disk hold a page that belongs elsewhere?

PostgreSQL trusts a page whose checksum fits. One of another table makes it read bytes as what they are not, and it dies of a signal
before it can say what of. It cannot be asked any more; its files and its WAL can: the page's LSN is the end of a record of some other
block. That is proof at whatever moment it died, since a page that was only not written yet bears the LSN of a record of its own.
"""

from __future__ import annotations

import asyncio
import os
import re

import structlog

from replication.errors import ActionFailed
from replication.local_node import LocalNode
from replication.model import WAL_SEGMENT_BYTES, FaultKind, Place, format_lsn
from replication.relation_files import lsns_on_disk
from replication.scrub import wal_blocks
from replication.scrub.findings import Findings
from replication.scrub.ledger_service import LedgerService
from replication.scrub.relation_path import fork_path
from replication.scrub.wal_ledger import FIRST_LSN, Relation
from replication.threads import in_thread
from replication.wal_files import segment_name

_log = structlog.get_logger()

CRASHED = re.compile(r"was terminated by signal (?:6|7|11)\b")
"""SIGABRT, SIGBUS and SIGSEGV (signal(7)): nobody sends these, a process earns them (src/backend/postmaster/postmaster.c)."""
_FIRST_NORMAL_OID = 16_384
_SUSPECTS_MAX = 6
WITHIN_S = 5.0
"""Nobody waits for it but the rebuild of this node."""


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
        try:
            async with asyncio.timeout(WITHIN_S):
                for lsn, relation, block in await self._suspects():
                    if timeline is not None and await self._is_of_elsewhere(timeline, relation, block, lsn):
                        await self._found(relation, block, lsn)
        except (OSError, TimeoutError) as error:
            _log.info("agent.post_mortem_broke_off", error=repr(error)[:200])

    async def _suspects(self) -> list[tuple[int, Relation, int]]:
        """Pages that are older on the disk than WAL has them, the oldest first: most were only not written yet."""
        ledger = self._ledger.ledger
        if ledger is None:
            return []
        found: list[tuple[int, Relation, int]] = []
        for relation, lasts in ledger.known().items():
            path = await in_thread(fork_path, self._local.node.data_dir, relation)
            if path is None or relation.number < _FIRST_NORMAL_OID:
                continue
            seen = await in_thread(lsns_on_disk, self._local.node.data_dir, path, sorted(lasts))
            found += [
                (lsn, relation, block)
                for block, lsn in seen.items()
                if lsn is not None and lsn >= FIRST_LSN and not lasts[block].floor <= lsn <= lasts[block].lsn
            ]
        return sorted(found)[:_SUSPECTS_MAX]

    async def _is_of_elsewhere(self, timeline: int, relation: Relation, block: int, lsn: int) -> bool:
        """By WAL from the segment before its own on, where that is there: it may be the first that a copy has."""
        names = await in_thread(os.listdir, self._local.node.data_dir / "pg_wal")
        number = (lsn - 1) // WAL_SEGMENT_BYTES
        first = number - 1 if segment_name(timeline, number - 1) in names else number
        try:
            refs, _ = await wal_blocks.read_refs_as_text(self._local.node, timeline, first * WAL_SEGMENT_BYTES, lsn)
        except ActionFailed as error:
            _log.info("agent.post_mortem_without_wal", error=str(error)[:200])
            return False
        enders = {(ref.relation, ref.block) for ref in refs if ref.end_lsn == lsn}
        return bool(enders) and (relation, block) not in enders

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
