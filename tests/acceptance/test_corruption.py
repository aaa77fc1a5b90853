"""A page of the primary turns to noise while everything is stopped: the first who reads it is answered from the other node."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.acceptance import fhir
from tests.acceptance.checker import check
from tests.acceptance.cluster import running
from tests.acceptance.corruption import appointment_file, somebody_in, write_noise
from tests.acceptance.workload import Workload
from tests.nodes import POSTGRES_15

BLOCK = 0
LATER = pytest.param(
    ("--pg-bindir", str(POSTGRES_15)),
    id="postgres-15",
    marks=pytest.mark.skipif(not (POSTGRES_15 / "postgres").exists(), reason="PostgreSQL 15 is not installed"),
)


@pytest.mark.parametrize("flags", [pytest.param((), id="chosen"), LATER])
async def test_a_page_that_turned_to_noise_while_all_was_stopped_is_read_on_the_other_node(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    async with running(tmp_path, "--demo-practitioners", "20", *flags) as cluster:
        before = await cluster.view()
        primary = before["primary"]
        proposals = await fhir.endless(cluster.session, cluster.ready.server)
        async with Workload(cluster.ready.server, proposals, rate=50) as workload:
            await workload.until_acknowledged(100)
            history = await workload.stop()
        appointment = await somebody_in(cluster, primary, BLOCK)
        path = await appointment_file(cluster, primary)
        assert await cluster.interrupt() == 0
        await asyncio.to_thread(write_noise, path, BLOCK)
        await cluster.start()
        url = f"{cluster.ready.server}/fhir/Appointment/{appointment}"
        async with cluster.session.get(url) as answer:
            assert answer.status == 200, await answer.text()
            assert (await answer.json(content_type=None))["id"] == appointment
        view = await cluster.wait_healthy()
        assert view["primary"] not in (None, primary)
        assert view["term"] > before["term"]
        assert view["nodes"][primary]["certificate"] is not None
        incident = await cluster.closed_incident()
        assert (incident["verdict"]["kind"], incident["verdict"]["cause"]) == ("page_corrupt", "corruption")
        assert (incident["node"], incident["receipts"]["lost"]) == (primary, 0)
        assert incident["receipts"]["acknowledged"] == incident["receipts"]["present"] >= 100
        async with cluster.sql(view["primary"]) as connection:
            findings = await check(connection, history)
        assert findings.is_clean, findings
