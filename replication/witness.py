"""The second witness: what this node's agent sees of its peer's PostgreSQL (DESIGN section 4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from replication.memory import Memory, clock_ms
from replication.model import Witness
from replication.probes.network import tcp_witness

WITNESS_DEADLINE_MS = 120


class WitnessWatch:
    """Looks at the first peer's port every probe interval, and at once when asked to.

    A change is told: a postmaster that was killed may still accept for a moment after its walsender is gone.
    """

    def __init__(self, memory: Memory, changed: Callable[[], None]) -> None:
        self._memory = memory
        self._changed = changed
        self._peer = next(iter(sorted(memory.node.settings.peers)), None)
        self._tcp: str | None = None
        self._at_ms = 0
        self._turn = asyncio.Lock()
        memory.witness = self.report

    async def run(self) -> None:
        """Until cancelled."""
        while self._peer is not None:
            await self.look()
            await asyncio.sleep(self._memory.node.settings.probe_interval_ms / 1000)

    async def look(self) -> None:
        """A fresh look, at most WITNESS_DEADLINE_MS long; one that began after this call counts."""
        asked_ms = clock_ms()
        if self._peer is None:
            return
        peer = self._memory.node.settings.peers[self._peer]
        async with self._turn:
            if self._tcp is not None and self._at_ms > asked_ms:
                return
            began_ms, before = clock_ms(), self._tcp
            self._tcp = await tcp_witness(peer.postgres_host, peer.postgres_port, WITNESS_DEADLINE_MS)
            self._at_ms = began_ms
        if self._tcp != before:
            self._changed()

    def report(self) -> Witness | None:
        """The last look; `receive_unmoved_ms` only where there is a receive LSN, on a standby."""
        if self._peer is None or self._tcp is None:
            return None
        now_ms = clock_ms()
        facts = self._memory.sql.facts
        receiving = facts is not None and facts.receive_lsn is not None
        return Witness(
            peer=self._peer,
            tcp=self._tcp,
            age_ms=now_ms - self._at_ms,
            receive_unmoved_ms=now_ms - self._memory.receive_moved_ms if receiving else None,
        )
