"""The last node dies too: it serves again when every acknowledged booking is found in it, and never without a word."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from tests.acceptance import fhir
from tests.acceptance.checker import check
from tests.acceptance.cluster import Cluster, running
from tests.acceptance.test_cold_start import LOST_BYTES, zero_wal_tail
from tests.acceptance.test_standby import is_alone, names
from tests.acceptance.workload import Workload


async def lose_standby(cluster: Cluster) -> str:
    """The standby's host is gone for good; the primary's name, once it serves alone."""
    primary, standby = await names(cluster)
    cluster.kill_agent(standby, signal.SIGSTOP)
    cluster.kill_postgres(standby)
    await cluster.wait_until(is_alone)
    return primary


async def test_a_lone_primary_that_was_killed_serves_again_without_a_person(tmp_path: Path) -> None:
    async with running(tmp_path, "--demo-practitioners", "20") as cluster:
        primary = await lose_standby(cluster)
        proposals = await fhir.endless(cluster.session, cluster.ready.server)
        async with Workload(cluster.ready.server, proposals, rate=50) as workload:
            await workload.until_acknowledged(100)
            await asyncio.to_thread(cluster.kill_postgres, primary)
            await workload.until_acknowledged(100)
            history = await workload.stop()
        view = await cluster.view()
        assert (view["primary"], view["phase"]) == (primary, "degraded")
        assert [(item.status, item.error) for item in history.failed] == []
        async with cluster.sql(primary) as connection:
            findings = await check(connection, history)
        assert findings.is_clean, findings


async def test_a_lone_primary_that_lost_the_end_of_its_wal_stays_closed_until_a_person_accepts_it_and_receipts_bring_it_back(
    tmp_path: Path,
) -> None:
    """DESIGN section 4, the lone rule: PostgreSQL itself ends such a recovery without any error."""
    async with running(tmp_path, "--demo-practitioners", "20") as cluster:
        primary = await lose_standby(cluster)
        proposals = await fhir.endless(cluster.session, cluster.ready.server)
        async with Workload(cluster.ready.server, proposals, rate=50) as workload:
            await workload.until_acknowledged(100)
            history = await workload.stop()
        cluster.kill_agent(primary, signal.SIGSTOP)
        await asyncio.to_thread(cluster.kill_postgres, primary)
        assert zero_wal_tail(cluster.layout.pgdata(primary) / "pg_wal", LOST_BYTES) == LOST_BYTES
        cluster.kill_agent(primary, signal.SIGCONT)
        view = await cluster.wait_until(lambda view: "stays closed" in (view["next_step"] or ""))
        assert view["phase"] == "no_primary"
        assert view["nodes"][primary]["stage"] in (None, "closed")

        body = {"expected_term": view["term"], "reason": "no other copy", "to": primary, "accept_data_loss": True}
        status, answer = await cluster.post("/v1/failover", body)
        assert status == 202, answer
        view = await cluster.wait_until(lambda view: view["phase"] == "degraded")
        async with cluster.sql(primary) as connection, asyncio.timeout(30):
            while not (await check(connection, history)).is_clean:
                await asyncio.sleep(0.1)
        assert "server.restored" in cluster.layout.log("server").read_text(), "nothing was lost: the trap is not set"
