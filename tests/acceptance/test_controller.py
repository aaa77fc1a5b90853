"""Without its controller the service goes on; with the next one everything is as it should be (DESIGN section 4)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from compose.adopt import running_postmaster
from tests.acceptance import fhir
from tests.acceptance.checker import check
from tests.acceptance.cluster import Cluster, running
from tests.acceptance.workload import Workload

STANDSTILL_S = float(os.environ.get("LOCUM_STANDSTILL_S", "6"))
"""Twice the node lease, unless more is asked for."""
GAP_MS_MAX = 2_000
LEFT_ALONE_S = 3.0
"""How long a stopped node is watched while nobody tells its agent anything."""


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
            await workload.until_acknowledged(int(50 * STANDSTILL_S), deadline_s=3 * STANDSTILL_S + 60)
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


async def test_a_node_that_restarts_with_its_agent_while_the_controller_is_away_never_starts_as_a_primary(
    tmp_path: Path,
) -> None:
    """DESIGN section 4: an agent that cannot learn its node's role leaves a stopped node stopped."""
    async with running(tmp_path, "--demo-practitioners", "20") as cluster:
        primary = (await cluster.view())["primary"]
        pgdata = cluster.layout.pgdata(primary)
        proposals = await fhir.endless(cluster.session, cluster.ready.server)
        async with Workload(cluster.ready.server, proposals, rate=50) as workload:
            await workload.until_acknowledged(50)
            os.kill(controller_pid(cluster), signal.SIGSTOP)
            old_agent = cluster.kill_agent(primary)
            await asyncio.to_thread(cluster.kill_postgres, primary)
            await until_agent_looks(cluster, primary, old_agent)
            left_alone_until = time.monotonic() + LEFT_ALONE_S
            while time.monotonic() < left_alone_until:
                assert running_postmaster(pgdata) is None, "its agent started it without being told to"
                await asyncio.sleep(0.05)
            os.kill(controller_pid(cluster), signal.SIGCONT)
            await cluster.wait_until(lambda view: view["primary"] not in (None, primary))
            await workload.until_acknowledged(50)
            view = await cluster.wait_healthy()
            history = await workload.stop()
        assert [(item.status, item.error) for item in history.failed] == []
        assert view["nodes"][primary]["role"] == "standby"
        async with cluster.sql(view["primary"]) as connection:
            findings = await check(connection, history)
        assert findings.is_clean, findings


async def until_agent_looks(cluster: Cluster, node: str, old_pid: int, deadline_s: float = 30.0) -> None:
    """Until the next agent of the node has looked at it, and says that no PostgreSQL runs there."""
    until, url = time.monotonic() + deadline_s, f"{cluster.ready.nodes[node].agent}/v1/observe"
    while True:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with cluster.session.get(url) as answer:
                report = msgspec.json.decode(await answer.read(), type=dict[str, Any])
                if cluster.ready.pids.agents[node] not in (None, old_pid):
                    assert report["postmaster"] in ("absent", "exited")
                    return
        assert time.monotonic() < until, f"no agent answers on {node}: {cluster.tell()}"
        await asyncio.sleep(0.05)
