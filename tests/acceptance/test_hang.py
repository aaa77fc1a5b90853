"""A primary that hangs and wakes up: it was replaced meanwhile, and must not say another word (DESIGN section 4)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import asyncpg
import pytest

from tests.acceptance import fhir
from tests.acceptance.checker import check
from tests.acceptance.cluster import Cluster, running
from tests.acceptance.faults import HANG
from tests.acceptance.workload import Workload

CLOSED_S_MAX = 5.0
"""Generous, for two busy cores; an idle machine needs some 20 ms."""
GONE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


async def test_what_hung_acknowledges_nothing_when_it_wakes_up_and_comes_back_as_a_standby(tmp_path: Path) -> None:
    """DESIGN 4: "Once it has stopped receiving the old primary's WAL, the old primary cannot acknowledge anything"."""
    assert HANG.heal is not None
    async with running(tmp_path, "--demo-practitioners", "20") as cluster:
        primary = (await cluster.view())["primary"]
        proposals = await fhir.endless(cluster.session, cluster.ready.server)
        client = await asyncpg.connect(cluster.ready.nodes[primary].dsn, timeout=10)
        async with Workload(cluster.ready.server, proposals, rate=50) as workload:
            await workload.until_acknowledged(50)
            await HANG.inject(cluster, primary)
            writing = asyncio.create_task(client.fetchval("SELECT pg_logical_emit_message(true, 'test', 'late')"))
            await cluster.wait_until(lambda view: view["primary"] not in (None, primary))
            await workload.until_acknowledged(50)
            assert not writing.done()
            await HANG.heal(cluster, primary)
            woken = time.monotonic()
            with pytest.raises(GONE):
                await asyncio.wait_for(writing, CLOSED_S_MAX)
            await no_longer_answers(cluster, primary, woken)
            print(f"closed {1000 * (time.monotonic() - woken):.0f} ms after it woke up")
            view = await cluster.wait_healthy()
            history = await workload.stop()
        assert view["nodes"][primary]["role"] == "standby"
        assert [(item.status, item.error) for item in history.failed] == []
        async with cluster.sql(view["primary"]) as connection:
            findings = await check(connection, history)
        assert findings.is_clean, findings
        incident = (await cluster.incidents())[-1]
        assert (incident["verdict"]["kind"], incident["verdict"]["cause"]) == ("unresponsive", "process")
        assert "network" in {ruled["cause"] for ruled in incident["verdict"]["ruled_out"]}


async def no_longer_answers(cluster: Cluster, node: str, since_s: float) -> None:
    """Wait until nobody can log in as to a primary any more."""
    while True:
        try:
            connection = await asyncpg.connect(cluster.ready.nodes[node].dsn, timeout=2)
            recovering = await connection.fetchval("SELECT pg_is_in_recovery()")
            await connection.close()
        except GONE:
            return
        if recovering:
            return  # it stands by already
        assert time.monotonic() - since_s < CLOSED_S_MAX, "the old primary still answers"
