"""The main promise: the primary goes, bookings go on, nothing is lost, and the old node comes back by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from replication.model import FaultKind
from tests.acceptance import fhir
from tests.acceptance.checker import check
from tests.acceptance.cluster import running
from tests.acceptance.faults import FAULTS, Fault
from tests.acceptance.workload import Workload

GAP_MS_MAX = 15_000
"""Generous, for two busy cores: bench/outage.py measures."""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
async def test_bookings_go_on_and_the_old_primary_stands_by_again(tmp_path: Path, fault: Fault) -> None:
    async with running(tmp_path, "--demo-practitioners", "20") as cluster:
        before = await cluster.view()
        primary, standby = before["primary"], next(name for name in before["nodes"] if name != before["primary"])
        proposals = await fhir.endless(cluster.session, cluster.ready.server)
        async with Workload(cluster.ready.server, proposals, rate=50) as workload:
            await workload.until_acknowledged(100)
            began = await fault.inject(cluster, primary)
            await cluster.wait_until(lambda view: view["primary"] == standby)
            await workload.until_acknowledged(100)
            if fault.heal is not None:
                await fault.heal(cluster, primary)
            after = await cluster.wait_healthy()
            history = await workload.stop()
        incident = await cluster.closed_incident() if fault.verdict is not None else None

        assert [(item.status, item.error) for item in history.failed] == []
        assert history.gap_ms(began) < GAP_MS_MAX
        assert after["term"] > before["term"]
        assert after["primary"] == standby
        assert after["nodes"][primary]["role"] == "standby"
        assert after["nodes"][primary]["eligible"] is True
        async with cluster.sql(standby) as connection:
            findings = await check(connection, history)
            in_recovery = await connection.fetchval("SELECT pg_is_in_recovery()")
        assert findings.is_clean, findings
        assert in_recovery is False
        if incident is not None:
            receipts = incident["receipts"]
            assert receipts["acknowledged"] == receipts["present"] >= 100
            assert (receipts["lost"], receipts["restored"], receipts["double_booked"]) == (0, 0, 0)
            assert incident["node"] == primary
            assert incident["verdict"]["kind"] == fault.verdict
            assert incident["verdict"]["cause"] == FaultKind(fault.verdict).cause.value


async def test_a_second_failover_goes_back_to_the_rebuilt_node(tmp_path: Path) -> None:
    async with running(tmp_path, "--demo-practitioners", "20") as cluster:
        first = (await cluster.view())["primary"]
        proposals = await fhir.endless(cluster.session, cluster.ready.server)
        async with Workload(cluster.ready.server, proposals, rate=50) as workload:
            for _round in range(2):
                await workload.until_acknowledged(50)
                primary = (await cluster.view())["primary"]
                cluster.kill_postgres(primary)
                await cluster.wait_until(lambda view, old=primary: view["primary"] not in (None, old))
                await cluster.wait_healthy()
            await workload.until_acknowledged(50)
            history = await workload.stop()
        assert (await cluster.view())["primary"] == first
        assert [(item.status, item.error) for item in history.failed] == []
        async with cluster.sql(first) as connection:
            findings = await check(connection, history)
        assert findings.is_clean, findings
