"""The whole cluster on disks that can be faulty: what a patient sees of it, and what is made of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from compose.adopt import leftovers
from compose.layout import Layout
from failover.drill.faultfs.client import FaultFsClient
from failover.drill.faultfs.launch import is_mounted
from failover.drill.faultfs.spec import Fault, Files, Kind, Op
from tests.acceptance.cluster import Cluster, running
from tests.acceptance.story import RATE, Story, story
from tests.integration.drill.mounts import needs_fuse

pytestmark = needs_fuse
SLOWEST_MS = 10_000
"""Generous, for two busy cores on a file system in Python; how fast it is, bench/ measures."""


def disk(cluster: Cluster, node: str) -> FaultFsClient:
    socket = cluster.ready.nodes[node].faultfs
    assert socket is not None
    return FaultFsClient(Path(socket))


async def ends_well(it: Story, verdict: set[str]) -> dict[str, Any]:
    """Every booking answered and found, another primary, and an incident that names the cause."""
    view, history = await it.end()
    assert view["primary"] == it.standby
    assert history.slowest_ms() < SLOWEST_MS
    incident = await it.cluster.closed_incident()
    assert incident["verdict"]["kind"] in verdict, incident["verdict"]
    assert incident["receipts"]["lost"] == 0
    return incident


async def test_wal_that_cannot_be_synced_costs_no_booking_and_is_named(tmp_path: Path) -> None:
    async with story(tmp_path, "--faultfs") as it:
        faulty = disk(it.cluster, it.primary)
        faulty.arm(Fault(kind=Kind.EIO, op=Op.FSYNC, files=Files.WAL))
        await it.cluster.wait_until(lambda view: view["primary"] == it.standby and view["phase"] == "degraded")
        assert faulty.fired()[0]["path"].startswith("pg_wal/")
        await it.workload.until_acknowledged(RATE)
        faulty.disarm()
        await ends_well(it, {"storage_error"})


async def test_a_disk_that_stalls_is_left_for_the_other_node(tmp_path: Path) -> None:
    async with story(tmp_path, "--faultfs") as it:
        faulty = disk(it.cluster, it.primary)
        faulty.arm(Fault(kind=Kind.STALL))
        await it.cluster.wait_until(lambda view: view["primary"] == it.standby and view["phase"] == "degraded")
        await it.workload.until_acknowledged(RATE)
        faulty.disarm()
        await ends_well(it, {"storage_stalled", "unresponsive"})


async def test_a_disk_that_finishes_no_write_of_a_table_is_named_though_its_wal_and_the_probe_go_on(
    tmp_path: Path,
) -> None:
    """The agent's own writes return, and those of the server do not: that looks like a network, and is none."""
    async with story(tmp_path, "--faultfs") as it:
        faulty = disk(it.cluster, it.primary)
        faulty.arm(Fault(kind=Kind.STALL, op=Op.WRITE, files=Files.RELATION))
        async with it.cluster.sql(it.primary) as connection:
            checkpoint = asyncio.ensure_future(connection.execute("CHECKPOINT"))
            try:
                await it.cluster.wait_until(lambda view: view["primary"] == it.standby and view["phase"] == "degraded")
            finally:
                connection.terminate()
                await asyncio.gather(checkpoint, return_exceptions=True)
        await it.workload.until_acknowledged(RATE)
        faulty.disarm()
        incident = await ends_well(it, {"storage_stalled"})
        assert "does not finish a block" in incident["verdict"]["sentence"]


async def test_a_disk_that_vanishes_is_a_failover_and_its_node_comes_back_when_the_disk_does(tmp_path: Path) -> None:
    async with story(tmp_path, "--faultfs") as it:
        layout = Layout(Path(it.cluster.ready.token_file).parent.parent)
        (process,) = [process for name, process in leftovers(layout) if name == f"faultfs-{it.primary}"]
        os.kill(process.pid, signal.SIGKILL)
        await it.cluster.wait_until(lambda view: view["primary"] == it.standby)
        await ends_well(it, {"storage_error", "process_dead", "unresponsive"})


async def test_a_read_error_under_a_booking_is_answered_by_the_other_node(tmp_path: Path) -> None:
    async with story(tmp_path, "--faultfs") as it:
        faulty = disk(it.cluster, it.primary)
        async with it.cluster.sql(it.primary) as connection:
            path = await connection.fetchval("SELECT pg_relation_filepath('appointment')")
            await connection.execute("CHECKPOINT")
            if connection.get_server_version().major < 17:
                pytest.skip("an older PostgreSQL cannot be made to read a page again while it runs")
            faulty.arm(Fault(kind=Kind.EIO, op=Op.READ, path=path))
            await connection.execute(
                "CREATE EXTENSION IF NOT EXISTS pg_buffercache; SELECT count(pg_buffercache_evict(bufferid)) "
                "FROM pg_buffercache WHERE relfilenode = pg_relation_filenode('appointment')"
            )
        await it.cluster.wait_until(lambda view: view["primary"] == it.standby and view["phase"] == "degraded")
        assert faulty.fired()[0]["path"] == path
        faulty.disarm()
        await ends_well(it, {"storage_error"})


async def test_when_both_machines_lose_power_every_acknowledged_booking_is_there_afterwards(tmp_path: Path) -> None:
    """What was not fsynced is gone for good on both; what was acknowledged had been."""
    async with story(tmp_path, "--faultfs") as it:
        nodes = (it.primary, it.standby)
        for node in nodes:
            it.cluster.kill_agent(node, signal.SIGSTOP)
        for node in nodes:
            await asyncio.to_thread(it.cluster.kill_postgres, node)
        lost = [disk(it.cluster, node).lose_unsynced()["blocks"] for node in nodes]
        assert min(lost) > 0, "nothing was at stake"
        for node in nodes:
            it.cluster.kill_agent(node, signal.SIGCONT)
        await it.workload.until_acknowledged(RATE)
        await it.end()


async def test_the_same_cluster_runs_with_and_without_the_flag_and_after_up_was_killed(tmp_path: Path) -> None:
    async with running(tmp_path, "--faultfs", "--no-demo") as cluster:
        data = Path(cluster.ready.nodes["a"].data_dir)
        async with cluster.sql("a") as connection:
            await connection.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)")
        assert is_mounted(data)
        await cluster.kill_up()
        await cluster.start()
        view = await cluster.wait_healthy()
        assert is_mounted(data)
        assert await kept(cluster, view["primary"]) == 42
        assert await cluster.interrupt() == 0
        assert not is_mounted(data)
    async with running(tmp_path, "--no-demo") as cluster:
        view = await cluster.wait_healthy()
        assert not is_mounted(data)
        assert await kept(cluster, view["primary"]) == 42
        assert cluster.ready.nodes["a"].faultfs is None


async def kept(cluster: Cluster, node: str) -> int:
    async with cluster.sql(node) as connection:
        return int(await connection.fetchval("SELECT n FROM kept"))


async def test_a_person_arms_looks_and_heals_with_the_command_line(tmp_path: Path) -> None:
    async with running(tmp_path, "--faultfs", "--no-demo") as cluster:
        data = str(Path(cluster.ready.token_file).parent.parent)

        def locum(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "compose", "fault", *words, "--data", data],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                cwd=Path(__file__).resolve().parents[2],
            )

        view = await cluster.view()
        standby = next(name for name in view["nodes"] if name != view["primary"])
        armed = await asyncio.to_thread(locum, "arm", standby, "slow", "--op", "read", "--latency-ms", "5")
        assert armed.returncode == 0, armed.stderr
        listed = await asyncio.to_thread(locum, "list", standby, "--json")
        assert json.loads(listed.stdout)["armed"][0]["fault"]["kind"] == "slow"
        until = time.monotonic() + 30
        while not json.loads((await asyncio.to_thread(locum, "log", standby, "--json")).stdout)["fired"]:
            assert time.monotonic() < until, "nothing was read on the standby"
        assert (await asyncio.to_thread(locum, "heal", standby, "1")).returncode == 0
        wrong = await asyncio.to_thread(locum, "heal", standby, "1")
        assert (wrong.returncode, "has no fault 1" in wrong.stderr) == (1, True)
        refused = await asyncio.to_thread(locum, "arm", standby, "slow")
        assert (refused.returncode, "latency_ms" in refused.stderr) == (2, True)
        nobody = await asyncio.to_thread(locum, "list", "c")
        assert (nobody.returncode, "there is no node c" in nobody.stderr) == (1, True)
        async with cluster.sql(view["primary"]) as connection:
            assert await connection.fetchval("SELECT count(*) FROM appointment") == 0
