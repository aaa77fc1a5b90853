"""A fence ends every process of a node before it says so (DESIGN section 4, fence)."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from replication import actions
from replication.errors import SQL_ERRORS
from replication.fence import fence
from replication.model import Postmaster
from replication.postmaster import clean_environment
from replication.proc import ProcessId, find_postmaster, read_stat
from replication.settings_file import conf_path
from tests.integration.replication.test_lifecycle import LONG_QUERY
from tests.integration.traps.commits import pid_of, processes, standing_still
from tests.nodes import NodeUnderTest, one_node

COUNT = 112
FENCED_MS_MAX = 1_500
"""The trial took 43 ms; two busy cores may need longer, and a child that stands still would cost 5 s without a SIGKILL."""
_NEVER_REAPS = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(600)"


@pytest.mark.both_versions
async def test_a_node_of_112_processes_is_fenced_at_once(tmp_path: Path, bindir: Path) -> None:
    """DESIGN 4: "SIGSTOP the postmaster, list its children, open pidfds, SIGKILL all, wait on the pidfds (43 ms with 112
    processes … every child has a process group of its own"; "`stop -m immediate` waits 5 s for a stuck child"."""
    async with one_node(tmp_path, bindir=bindir, postgres={"max_connections": "130"}) as node:
        await node.first_start()
        missing = COUNT - len(processes(node))
        clients = await asyncio.gather(*(node.connect() for _ in range(missing)))
        queries = [asyncio.ensure_future(client.execute("SELECT pg_sleep(60)")) for client in clients]
        directory = str(node.settings.data_dir.resolve())
        postmaster = await asyncio.to_thread(find_postmaster, directory)
        with standing_still(node, "walwriter"):
            fenced = await asyncio.to_thread(fence, postmaster, directory)
            assert processes(node) == []
        print(f"{fenced.killed} processes in {fenced.took_ms:.0f} ms")
        assert fenced.killed >= COUNT
        assert fenced.took_ms < FENCED_MS_MAX
        outcomes = await asyncio.gather(*queries, return_exceptions=True)
        assert all(isinstance(outcome, BaseException) for outcome in outcomes)


@pytest.mark.both_versions
async def test_the_children_of_a_postmaster_that_was_killed_alone_are_ended_before_the_fence_says_so(
    tmp_path: Path, bindir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN 4: "After a SIGKILL of the postmaster alone a running query was answered 2.2 s later"."""
    async with one_node(tmp_path, bindir=bindir) as node:
        await node.first_start()
        client = await node.connect()
        running = asyncio.ensure_future(client.fetchval(LONG_QUERY))
        observer = await node.running.node.connect()
        async with asyncio.timeout(5):
            while not await observer.fetchval("SELECT count(*) FROM pg_stat_activity WHERE query = $1", LONG_QUERY):
                await asyncio.sleep(0.005)
        observer.terminate()
        monkeypatch.setattr(node.running.supervisor, "_after_exit", nothing)  # only the fence that is asked for
        os.kill(pid_of(node), signal.SIGKILL)
        await node.wait(lambda report: report.postmaster is Postmaster.EXITED)
        assert not running.done() and processes(node), "the trap is not set"
        await node.act(actions.Fence())
        assert processes(node) == []
        with pytest.raises(SQL_ERRORS):
            await running


async def nothing() -> None:
    return None


async def test_a_killed_process_that_nobody_reaps_counts_as_gone(tmp_path: Path) -> None:
    """DESIGN 4: "a killed one may stay a zombie, so neither killpg nor `kill(pid, 0)` will do"."""
    async with one_node(tmp_path) as node:
        await node.act(actions.Stop(10_000, await node.first_start()))
        node_directory = str(node.settings.data_dir.resolve())
        careless = await asyncio.to_thread(start_by_a_careless_parent, node)
        try:
            postmaster = await asyncio.to_thread(until_served, node, node_directory)
            await asyncio.to_thread(fence, postmaster, node_directory)
            assert processes(node) == []
            stat = read_stat(postmaster.pid)
            assert stat is not None and stat.dead, "the trap is not set: somebody has reaped it"
        finally:
            careless.kill()
            await asyncio.to_thread(careless.wait)


def start_by_a_careless_parent(node: NodeUnderTest) -> subprocess.Popen[bytes]:
    """A postmaster whose parent never asks how it ended."""
    command = node.running.node.installation.command("postgres", f"--config-file={conf_path(node.running.node)}")
    return subprocess.Popen(
        [sys.executable, "-c", _NEVER_REAPS, *command, "-D", str(node.settings.data_dir)],
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def until_served(node: NodeUnderTest, directory: str) -> ProcessId:
    """Wait until that postmaster accepts connections. Blocks."""
    socket = node.running.node.socket_dir / f".s.PGSQL.{node.settings.postgres_port}"
    found: ProcessId | None = None
    while found is None or not socket.exists():
        found = find_postmaster(directory)
    return found
