"""When a fault was named, seen from outside: the controller's incidents and alarms, asked for all the time from the fault on."""

from __future__ import annotations

import asyncio
import contextlib
import time

from failover.drill.cluster import Cluster
from failover.drill.errors import ClusterAway

_EVERY_S = 0.2
_TOLD = ("suspected_", "fault.")
"""Alarms that speak of a node's disk or content: `suspected_a`, `fault.a.storage_full`."""


class Watch:
    """`run` from the fault on. `named_s`: how long after it an incident had a verdict; `suspected_s`: an alarm spoke of damage."""

    def __init__(self, cluster: Cluster, incidents_before: int) -> None:
        self.named_s: float | None = None
        self.suspected_s: float | None = None
        self._cluster = cluster
        self._before = incidents_before
        self._named = asyncio.Event()

    async def run(self, since_s: float) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(ClusterAway):
                await self._look(since_s)
            await asyncio.sleep(_EVERY_S)

    async def until_named(self, deadline_s: float) -> None:
        """Return when an incident names something, or after so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, deadline_s)):
                await self._named.wait()

    async def _look(self, since_s: float) -> None:
        if self.named_s is None:
            incidents = (await self._cluster.incidents())[self._before :]
            if any(incident.get("verdict") for incident in incidents):
                self.named_s = round(time.monotonic() - since_s, 2)
                self._named.set()
        if self.suspected_s is None:
            alarms = (await self._cluster.view())["alarms"]
            if any(str(alarm["name"]).startswith(_TOLD) for alarm in alarms):
                self.suspected_s = round(time.monotonic() - since_s, 2)
