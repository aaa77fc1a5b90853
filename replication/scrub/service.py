"""Everything that an agent looks for by itself, each in a loop of its own, none of which can hold up another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from replication.local_node import LocalNode
from replication.scrub.certificate import Certifier
from replication.scrub.compare_service import CompareService
from replication.scrub.control import ControlWatch
from replication.scrub.findings import Findings
from replication.scrub.free_space import FreeSpaceMaps
from replication.scrub.kernel_watch import KernelWatch
from replication.scrub.ledger_service import LedgerService
from replication.scrub.page_judge import PageJudge
from replication.scrub.page_service import PageScrub
from replication.scrub.post_mortem import PostMortem
from replication.scrub.relation_checks import RelationChecks
from replication.scrub.rotation import Rotation
from replication.scrub.status_compare import StatusCompare
from replication.scrub.visibility import VisibilityChecks

_REST_S_MIN = 0.05
_SHORT_S, _LONG_S = 0.3, 1.0
_IDLE_S = 1.0


class Scrub:
    """Use `run` in a task group. `latency_ms`: of this node's last commit."""

    def __init__(
        self,
        local: LocalNode,
        publish: Callable[[str], None],
        latency_ms: Callable[[], int | None],
    ) -> None:
        findings = Findings(local.memory, publish)
        self.ledger = LedgerService(local, findings, latency_ms)
        self.judge = PageJudge(local, findings, self.ledger)
        self.pages = PageScrub(local, findings, self.judge, self.ledger, latency_ms)
        self.status = StatusCompare(local, findings, self.ledger)
        self.compare = CompareService(local, findings, self.judge, self.status, latency_ms)
        self.post_mortem = PostMortem(local, findings, self.ledger)
        self._settings = local.node.settings
        self._control = ControlWatch(local, findings)
        self._rotations = {
            "relations": RelationChecks(local, findings).rotation,
            "visibility": VisibilityChecks(local, findings).rotation,
        }
        self._free_space = FreeSpaceMaps(local, findings)
        self._kernel = KernelWatch(local, findings)
        self._memory = memory = local.memory
        self._certifier = Certifier(
            local,
            self.pages,
            self.ledger,
            self.compare,
            tuple(self._rotations.values()),
            lambda: bool(memory.log_faults.faults() or memory.upstream_faults.faults()),
        )

    def hurry(self) -> None:
        """Begin a pass over all pages now, and a comparison with the primary's."""
        self.pages.hurry()
        self.compare.hurry()

    async def look_at_replay(self) -> None:
        """Recovery says again and again that it cannot read a record: look at WAL there now."""
        if self._settings.scrub_enabled:
            await self._control.look_at_replay()

    async def run(self) -> None:
        """Until cancelled; at once, when the settings say so."""
        if not self._settings.scrub_enabled:
            return
        await self._kernel.begin()
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self.pages.run(), name="scrub-pages")
                loops.create_task(self.ledger.run(), name="scrub-ledger")
                loops.create_task(self.compare.run(), name="scrub-compare")
                loops.create_task(self._certifier.run(), name="scrub-certify")
                loops.create_task(self._every(self._control.look), name="scrub-control")
                loops.create_task(self._every(self._kernel.look), name="scrub-kernel")
                loops.create_task(self._every(self._free_space.look), name="scrub-free-space")
                for name, rotation in self._rotations.items():
                    loops.create_task(self._within_share(rotation), name=f"scrub-{name}")
        finally:
            for rotation in self._rotations.values():
                rotation.close()
            self._kernel.close()

    async def _every(self, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self._settings.checks_every_s)
            await look()

    async def _within_share(self, rotation: Rotation) -> None:
        """At most this share of the time, and never without a rest."""
        while True:
            while self._memory.scrub_pause.is_on or not await rotation.ready():
                await asyncio.sleep(_IDLE_S)
            began_s = time.monotonic()
            await rotation.look()
            took_s = time.monotonic() - began_s
            share, pace = self._settings.relation_checks_share, self._memory.scrub_pace.share()
            await asyncio.sleep(rest_s(took_s, share, pace))


def rest_s(took_s: float, share: float, pace: float) -> float:
    """After a look that `took_s`, so that looks take at most `share` of the time. On busy processors `pace` of that, for a long look (a
    large relation, whose reading the bookings feel); one that was short is followed by another within a second all the same. Pure.
    """
    weight = min(1.0, max(0.0, (took_s - _SHORT_S) / (_LONG_S - _SHORT_S)))
    of_long = 1.0 - (1.0 - pace) * weight
    return max(_REST_S_MIN, min(took_s / (share * pace), max(took_s / (share * of_long), _IDLE_S)))
