"""The standby goes: bookings pause and go on, and nothing is promoted past what was acknowledged."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import fhir
from tests.acceptance.checker import check
from tests.acceptance.cluster import Cluster, running
from tests.acceptance.workload import History, Workload


def is_alone(view: dict[str, Any]) -> bool:
    return view["phase"] == "degraded" and not any(node["eligible"] for node in view["nodes"].values())


async def lose_standby_under_load(cluster: Cluster, primary: str, standby: str) -> History:
    """Stop the standby's agent so that nobody starts it again, kill its PostgreSQL, and book before and after."""
    proposals = await fhir.endless(cluster.session, cluster.ready.server)
    async with Workload(cluster.ready.server, proposals, rate=50) as workload:
        await workload.until_acknowledged(50)
        cluster.kill_agent(standby, signal.SIGSTOP)
        cluster.kill_postgres(standby)
        await cluster.wait_until(is_alone)
        await workload.until_acknowledged(100)
        history = await workload.stop()
    assert [(item.status, item.error) for item in history.failed] == []
    assert (await cluster.view())["primary"] == primary
    return history


async def names(cluster: Cluster) -> tuple[str, str]:
    """Primary and standby."""
    view = await cluster.view()
    return view["primary"], next(name for name in view["nodes"] if name != view["primary"])


async def test_without_an_eligible_standby_a_dead_primary_is_not_replaced(tmp_path: Path) -> None:
    async with running(tmp_path, "--demo-practitioners", "20") as cluster:
        primary, standby = await names(cluster)
        history = await lose_standby_under_load(cluster, primary, standby)
        term = (await cluster.view())["term"]
        cluster.kill_agent(primary, signal.SIGSTOP)
        cluster.kill_postgres(primary)
        os.kill(cluster.ready.pids.agents[standby] or 0, signal.SIGCONT)
        await cluster.wait_until(lambda view: view["phase"] == "no_primary")
        with pytest.raises(AssertionError, match="not within"):
            await cluster.wait_until(lambda view: view["primary"] == standby or view["term"] != term, deadline_s=6)
        view = await cluster.view()
        assert view["next_step"]
        async with cluster.session.get(f"{cluster.ready.server}/livez") as answer:
            assert answer.status == 200
        assert len(history.acknowledged) > 100


@pytest.mark.parametrize("lost_for_good", [False, True], ids=["it-comes-back", "its-directory-is-gone"])
async def test_the_standby_becomes_eligible_again_without_help(tmp_path: Path, lost_for_good: bool) -> None:
    async with running(tmp_path, "--demo-practitioners", "20") as cluster:
        primary, standby = await names(cluster)
        history = await lose_standby_under_load(cluster, primary, standby)
        if lost_for_good:
            await asyncio.to_thread(shutil.rmtree, cluster.layout.pgdata(standby))
        os.kill(cluster.ready.pids.agents[standby] or 0, signal.SIGCONT)
        view = await cluster.wait_healthy()
        assert view["primary"] == primary
        assert view["nodes"][standby]["eligible"] is True
        # what it holds now is the whole: it is promoted, and asked
        cluster.kill_postgres(primary)
        await cluster.wait_until(lambda view: view["primary"] == standby)
        async with cluster.sql(standby) as connection:
            findings = await check(connection, history)
        assert findings.is_clean, findings
