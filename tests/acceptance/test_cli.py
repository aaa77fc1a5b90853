"""The command line against a running cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import msgspec

from compose.processes import child_environment
from tests.acceptance.cluster import Cluster, running


async def locum(cluster: Cluster, *arguments: str) -> tuple[int, str]:
    """`locum … --data DIR`: exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "compose", *arguments, "--data", str(cluster.layout.root)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**child_environment(), "COLUMNS": "200"},
    )
    async with asyncio.timeout(120):
        output, _none = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_an_operator_looks_switches_over_pauses_fences_and_reads_incidents(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        code, said = await locum(cluster, "status")
        assert (code, "healthy" in said) == (0, True), said
        code, said = await locum(cluster, "status", "--json")
        view = msgspec.json.decode(said)
        assert (code, view["phase"]) == (0, "healthy")
        primary, standby = view["primary"], next(name for name in view["nodes"] if name != view["primary"])

        code, said = await locum(cluster, "pause", "--for", "10m", "--reason", "moving a rack")
        assert code == 0, said
        assert (await cluster.view())["paused"] is True
        code, said = await locum(cluster, "resume")
        assert code == 0, said
        assert (await cluster.view())["paused"] is False

        code, said = await locum(cluster, "switchover", "--to", primary)
        assert code == 1, said
        code, said = await locum(cluster, "switchover", "--to", standby, "--reason", "new fans")
        assert code == 0, said
        view = await cluster.wait_healthy()
        assert view["primary"] == standby

        code, said = await locum(cluster, "fence", primary, "--reason", "smells of smoke")
        assert code == 0, said
        code, said = await locum(cluster, "status")
        assert (code, "degraded" in said) == (1, True), said
        code, said = await locum(cluster, "unfence", primary)
        assert code == 0, said
        await cluster.wait_healthy()

        cluster.kill_postgres(standby)
        await cluster.wait_until(lambda now: now["primary"] == primary)
        await cluster.wait_healthy()
        code, said = await locum(cluster, "incident", "list", "--json")
        assert code == 0, said
        incident = (await cluster.incidents())[-1]
        code, said = await locum(cluster, "incident", "show", incident["id"])
        assert (code, "## Timeline" in said, "process_dead" in said) == (0, True, True), said
        code, said = await locum(cluster, "incident", "show", "no-such-incident")
        assert (code, "incident list" in said) == (1, True), said


async def test_status_asks_the_agents_when_the_controller_is_silent(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        primary = (await cluster.view())["primary"]
        controller = cluster.ready.pids.controller
        assert controller is not None
        os.kill(controller, signal.SIGSTOP)
        try:
            code, said = await locum(cluster, "status")
            assert code == 1
            assert f"primary {primary}" in said
            assert "controller does not answer" in said
            code, said = await locum(cluster, "switchover")
            assert (code, "Traceback" in said) == (1, False), said
        finally:
            os.kill(controller, signal.SIGCONT)
        await cluster.wait_healthy()


async def test_without_a_cluster_every_command_says_where_it_looked(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    for command in (("status",), ("switchover",), ("fence", "a"), ("incident", "list")):
        code, said = await locum(cluster, *command)
        assert code == 1
        assert str(cluster.layout.locum_json) in said
        assert "Traceback" not in said
    code, _said = await locum(cluster, "fence")
    assert code == 2
