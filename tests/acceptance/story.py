"""A cluster whose links can be cut, under load: what it was, how it is read, and that nothing was lost at the end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.acceptance import fhir
from tests.acceptance.checker import check
from tests.acceptance.cluster import Cluster, running
from tests.acceptance.workload import History, Workload

RATE = 50
"""Bookings a second."""
READS_MIN = 20
PATIENCE_S = 0.5
"""How long an answer to a read is waited for, where it may not come."""


class Story:
    """A cluster under load, and what it looked like before anything was cut."""

    def __init__(
        self, cluster: Cluster, workload: Workload, proposals: Iterator[fhir.Proposal], before: dict[str, Any]
    ) -> None:
        self.cluster = cluster
        self.proposals = proposals
        self.workload = workload
        self.before = before
        self.primary: str = before["primary"]
        (self.standby,) = set(before["nodes"]) - {self.primary}
        self.postmasters = self._postmasters()

    async def hold(self, seconds: float) -> None:
        """The fault lasts so long, and bookings go on until the end of it."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await self.workload.until_acknowledged(RATE // 2)

    async def read(self, appointment: str | None) -> bool:
        """True when the server answers this read as the primary's; False for a standby's answer, which says so."""
        url = f"{self.cluster.ready.server}/fhir/Appointment/{appointment}"
        async with self.cluster.session.get(url) as answer:
            text = await answer.text()
            if answer.headers.get("X-Locum-Stale") is not None:
                return False
            assert answer.status == 200, text
            assert '"booked"' in text
            return True

    async def read_newest(self, over: asyncio.Event) -> None:
        """Read the newest booking that was acknowledged until it is `over`, and then until READS_MIN answers have come.

        A primary that was left behind does not have it: its answer would be a 404.
        """
        found = 0
        while not over.is_set() or found < READS_MIN:
            found += await self.read(self.workload.history.acknowledged[-1].appointment)
            await asyncio.sleep(0.005)

    async def last_read_s(self, over: asyncio.Event) -> float:
        """Read one booking again and again; when the last answer of a primary came (time.monotonic)."""
        appointment, last = self.workload.history.acknowledged[-1].appointment, 0.0
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    if await self.read(appointment):
                        last = time.monotonic()
            await asyncio.sleep(0.005)
        return last

    async def end(self) -> tuple[dict[str, Any], History]:
        """Healthy again, the load over, every booking answered 201 and found on the primary as it was promised."""
        view = await self.cluster.wait_healthy()
        await self.workload.until_acknowledged(RATE)
        history = await self.workload.stop()
        assert [(item.status, item.error) for item in history.failed] == []
        async with self.cluster.sql(view["primary"]) as connection:
            findings = await check(connection, history)
        assert findings.is_clean, findings
        return view, history

    async def nothing_changed(self, view: dict[str, Any]) -> None:
        """Same term, same primary, no process of PostgreSQL restarted, nothing on record."""
        assert (view["term"], view["primary"]) == (self.before["term"], self.primary)
        assert self._postmasters() == self.postmasters
        assert await self.cluster.incidents() == []

    def _postmasters(self) -> dict[str, int]:
        return {node: self.cluster.postmaster(node) for node in self.before["nodes"]}


@asynccontextmanager
async def story(root: Path, *flags: str) -> AsyncIterator[Story]:
    """Healthy and booking; proxied without other flags."""
    async with running(root, *(flags or ("--proxied",)), "--demo-practitioners", "20") as cluster:
        before = await cluster.view()
        proposals = await fhir.endless(cluster.session, cluster.ready.server)
        async with Workload(cluster.ready.server, proposals, rate=RATE) as workload:
            await workload.until_acknowledged(RATE)
            yield Story(cluster, workload, proposals, before)


def is_open(view: dict[str, Any]) -> bool:
    """Its primary takes bookings."""
    return view["phase"] in ("healthy", "degraded")


def alarms(view: dict[str, Any]) -> set[str]:
    """The names of those that stand."""
    return {alarm["name"] for alarm in view["alarms"]}
