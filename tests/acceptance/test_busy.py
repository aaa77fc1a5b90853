"""A machine that is busy with something else: slow is no fault, and nobody is promoted for it (DESIGN section 5)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance import fhir
from tests.acceptance.checker import check
from tests.acceptance.cluster import running
from tests.acceptance.workload import Workload

BUSY_S = float(os.environ.get("LOCUM_BUSY_S", "20"))
"""Longer when more is asked for."""
LOOPS = 4
RATE = 20


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Processes that never rest."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@pytest.mark.timeout(int(4 * BUSY_S) + 240)
async def test_four_busy_loops_promote_nobody_and_every_booking_succeeds(tmp_path: Path) -> None:
    async with running(tmp_path, "--demo-practitioners", "40") as cluster:
        before = await cluster.view()
        postmasters = {node: cluster.postmaster(node) for node in before["nodes"]}
        proposals = await fhir.endless(cluster.session, cluster.ready.server)
        async with Workload(cluster.ready.server, proposals, rate=RATE) as workload:
            await workload.until_acknowledged(RATE)
            began = time.monotonic()
            with busy_loops(LOOPS):
                await workload.until_acknowledged(int(RATE * BUSY_S), deadline_s=3 * BUSY_S + 60)
            assert time.monotonic() - began >= BUSY_S - 1
            after = await cluster.wait_healthy()
            history = await workload.stop()
        assert (after["term"], after["primary"]) == (before["term"], before["primary"])
        assert {node: cluster.postmaster(node) for node in after["nodes"]} == postmasters
        assert await cluster.incidents() == []
        assert [(item.status, item.error) for item in history.failed] == []
        async with cluster.sql(after["primary"]) as connection:
            findings = await check(connection, history)
        assert findings.is_clean, findings
        print(f"{len(history.acknowledged)} bookings, the slowest in {history.slowest_ms():.0f} ms")
