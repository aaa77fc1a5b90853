"""A standby compares its pg_xact with its primary's."""

from __future__ import annotations

import asyncpg
import structlog

from replication.client import AgentClient
from replication.errors import ActionFailed
from replication.local_node import LocalNode
from replication.model import FaultKind, Place, Reason
from replication.scrub.findings import SUSPICION, Findings
from replication.scrub.ledger_service import LedgerService
from replication.scrub.status_protocol import StatusSpan
from replication.scrub.transaction_status import blame, place_of_page, read_page, read_span
from replication.threads import in_thread

_log = structlog.get_logger()

_BOUNDS = """
SELECT oldest_xid::text::bigint AS oldest, oldest_active_xid::text::bigint AS active,
       split_part(next_xid, ':', 2)::bigint AS next, timeline_id AS timeline
FROM pg_control_checkpoint()
"""
_WHAT = "comparison of pg_xact"


class StatusCompare:
    """`look` after each pass over the pages; `span` and `page` for the peer that asks."""

    def __init__(self, local: LocalNode, findings: Findings, ledger: LedgerService) -> None:
        self._local = local
        self._findings = findings
        self._ledger = ledger

    async def span(self, oldest: int, below: int) -> StatusSpan:
        """This node's pages between these, as far as its own last checkpoint has settled them. Raises ActionFailed, OSError."""
        own_oldest, own_below, timeline = await self._bounds()
        try:
            return await in_thread(
                read_span, self._local.node.data_dir, timeline, max(oldest, own_oldest), min(below, own_below)
            )
        except ValueError as error:
            raise ActionFailed(Reason.FAILED, str(error)) from error

    async def page(self, page: int, oldest: int, below: int) -> bytes:
        """One page as it lies on the disk. Raises OSError."""
        return await in_thread(read_page, self._local.node.data_dir, page, oldest, below)

    async def look(self, peer: AgentClient) -> None:
        """Compare; what differs twice is judged. Raises WireError, ActionFailed, and SQL_ERRORS."""
        oldest, below, _ = await self._bounds()
        theirs = await peer.status_span(oldest, below)
        start, first = theirs.oldest, theirs.first_page
        ours = await self.span(start, theirs.below)
        if (ours.timeline, ours.oldest, ours.below) != (theirs.timeline, start, theirs.below):
            return  # one of them has just removed what nobody needs any more, or was promoted
        for offset, (one, other) in enumerate(zip(ours.digests, theirs.digests, strict=False)):
            if one != other:
                await self._differs(peer, first + offset, start, ours.below)

    async def _differs(self, peer: AgentClient, page: int, oldest: int, below: int) -> None:
        own, theirs = await self.page(page, oldest, below), await peer.status_page(page, oldest, below)
        found = blame(own, theirs)
        if not found.differing:
            return
        place = Place(path=place_of_page(page))
        sentence = (
            f"page {page} of pg_xact tells the fate of {found.differing} transactions otherwise than the other node"
        )
        value = f"unfinished here: {found.own_impossible}, there: {found.peer_impossible}, of {found.differing}"
        if found.is_own:
            self._findings.add(FaultKind.CONTROL_CORRUPT, sentence, what=_WHAT, value=value, places=(place,))
        elif found.is_peer:
            self._findings.add_to_primary(FaultKind.CONTROL_CORRUPT, sentence, what=_WHAT, value=value, places=(place,))
        else:
            self._findings.add(
                FaultKind.CONTROL_CORRUPT, sentence, what=_WHAT, value=value, places=(place,), confidence=SUSPICION
            )

    async def _bounds(self) -> tuple[int, int, int]:
        """(oldest id that is kept, oldest that was active when the last checkpoint began, timeline)."""
        row = await self._ledger.wal.ask(_bounds)
        active = int(row["active"]) or int(row["next"])
        return int(row["oldest"]), active, int(row["timeline"])


async def _bounds(connection: asyncpg.Connection) -> asyncpg.Record:
    return await connection.fetchrow(_BOUNDS)
