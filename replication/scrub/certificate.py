"""The certificate of a standby that runs: everything that it looks for was looked for since one moment, from the disk, and
nothing was found (DESIGN section 5, certificate)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from replication.errors import ActionFailed, StateError
from replication.local_node import LocalNode
from replication.model import Certificate
from replication.scrub.compare_service import CompareService
from replication.scrub.ledger_service import LedgerService
from replication.scrub.page_service import PageScrub
from replication.scrub.rotation import Rotation
from replication.wall_clock import wall_now
from replication.wire.errors import WireError

_log = structlog.get_logger()

_EVERY_S = 1.0
_CHECKS = (
    "page checksums from the disk",
    "verification after checkpoints",
    "comparison with the primary",
    "pg_xact",
    "amcheck",
    "pg_visibility",
)
_CHAIN = "chain check of WAL"


class _Begun(msgspec.Struct, frozen=True):
    """Where each of the checks stood when the certificate was begun, and what it will cover."""

    copy: int
    timeline: int
    redo_lsn: int
    own_redo_lsn: int
    page_passes: int
    compare_passes: int
    turns: tuple[int, ...]


class Certifier:
    """`run` in a task group; begins anew whenever a fault is known."""

    def __init__(
        self,
        local: LocalNode,
        pages: PageScrub,
        ledger: LedgerService,
        compare: CompareService,
        rotations: tuple[Rotation, ...],
        faults: Callable[[], bool],
    ) -> None:
        self._local = local
        self._pages = pages
        self._ledger = ledger
        self._compare = compare
        self._rotations = rotations
        self._has_faults = faults

    async def run(self) -> None:
        """Until cancelled: one certificate after the other."""
        while True:
            begun = await self._begin()
            while begun is not None and not self._has_ended(begun):
                await asyncio.sleep(_EVERY_S)
                if not self._may_go_on(begun):
                    begun = None
            if begun is not None:
                await self._keep(begun)
            await asyncio.sleep(_EVERY_S)

    async def _begin(self) -> _Begun | None:
        """Both nodes' REDO, read before the first page. None on a primary, or while the peer cannot be asked."""
        facts, upstream = self._local.memory.sql.facts, self._local.state.upstream
        if facts is None or not facts.in_recovery or facts.redo_lsn is None or upstream is None or self._has_faults():
            return None
        try:
            peer = await self._local.peer(upstream).observe()
        except (WireError, ActionFailed):
            return None
        if peer.redo_lsn is None or peer.timeline != facts.timeline:
            return None
        return _Begun(
            copy=self._local.state.rebuilt_revision,
            timeline=facts.timeline,
            redo_lsn=min(facts.redo_lsn, peer.redo_lsn),
            own_redo_lsn=facts.redo_lsn,
            page_passes=self._passes(),
            compare_passes=self._compared(),
            turns=tuple(rotation.turn for rotation in self._rotations),
        )

    def _may_go_on(self, begun: _Begun) -> bool:
        facts = self._local.memory.sql.facts
        same = self._local.state.rebuilt_revision == begun.copy
        stands_by = facts is not None and facts.in_recovery and facts.timeline == begun.timeline
        return same and stands_by and not self._has_faults()

    def _has_ended(self, begun: _Begun) -> bool:
        """Each of them has made a whole round that began after this did: the one that was under way does not count."""
        ledger = self._ledger.status()
        return (
            self._passes() >= begun.page_passes + 2
            and self._compared() >= begun.compare_passes + 2
            and all(map(Rotation.has_seen_all_since, self._rotations, begun.turns))
            and ledger is not None
            and ledger.problem is None
            and ledger.verified_lsn >= begun.own_redo_lsn
        )

    async def _keep(self, begun: _Begun) -> None:
        status, ledger = self._pages.status, self._ledger.status()
        if status is None or status.bad or ledger is None:
            return
        certificate = Certificate(
            node=self._local.node.name,
            timeline=begun.timeline,
            checked_through_lsn=begun.redo_lsn,
            pages=status.pages,
            checks=(*_CHECKS, _CHAIN) if ledger.chain_checked else _CHECKS,
            cached=status.cached,
            at=wall_now().replace("+00:00", "Z"),
        )
        known = self._local.state.certificate
        if known is not None and known.timeline == begun.timeline and known.checked_through_lsn > begun.redo_lsn:
            return
        try:
            await self._local.store.change(certificate=certificate)
        except StateError as error:
            _log.warning("agent.state_unwritable", sentence=str(error))
            return
        _log.info("agent.certified", through=certificate.checked_through_lsn, pages=certificate.pages)
        self._local.publish("certified")

    def _passes(self) -> int:
        return self._pages.status.passes if self._pages.status is not None else 0

    def _compared(self) -> int:
        return self._compare.status.passes if self._compare.status is not None else 0
