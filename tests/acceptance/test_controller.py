"""Without its controller the service goes on; with the next one everything is as it should be (DESIGN section 4)."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.acceptance import fhir
from tests.acceptance.cluster import Cluster, running
from tests.acceptance.workload import Workload

STANDSTILL_S = float(os.environ.get("LOCUM_STANDSTILL_S", "6"))
"""Twice the node lease, unless more is asked for."""
GAP_MS_MAX = 2_000


def controller_pid(cluster: Cluster) -> int:
    pid = cluster.ready.pids.controller
    assert pid is not None
    return pid


async def test_while_the_controller_stands_still_bookings_go_on_and_when_it_wakes_up_nothing_changes(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, "--demo-practitioners", "20") as cluster:
        before = await cluster.view()
        postmasters = {node: cluster.postmaster(node) for node in before["nodes"]}
        proposals = await fhir.endless(cluster.session, cluster.ready.server)
        async with Workload(cluster.ready.server, proposals, rate=50) as workload:
            await workload.until_acknowledged(50)
            began = time.monotonic()
            os.kill(controller_pid(cluster), signal.SIGSTOP)
            await workload.until_acknowledged(int(50 * STANDSTILL_S))
            os.kill(controller_pid(cluster), signal.SIGCONT)
            after = await cluster.wait_healthy()
            await workload.until_acknowledged(50)
            history = await workload.stop()
        assert time.monotonic() - began >= STANDSTILL_S
        assert [(item.status, item.error) for item in history.failed] == []
        assert history.gap_ms(began) < GAP_MS_MAX
        assert (after["term"], after["primary"]) == (before["term"], before["primary"])
        assert {node: cluster.postmaster(node) for node in after["nodes"]} == postmasters
        assert await cluster.incidents() == []
