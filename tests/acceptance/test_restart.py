"""`locum up` again on the same data: after Ctrl-C, and after it was killed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from replication.proc import alive, identify
from tests.acceptance import fhir
from tests.acceptance.checker import check
from tests.acceptance.cluster import Cluster, running
from tests.acceptance.workload import History, Workload


async def book_some(cluster: Cluster, count: int) -> History:
    proposals = await fhir.endless(cluster.session, cluster.ready.server)
    async with Workload(cluster.ready.server, proposals, rate=50) as workload:
        await workload.until_acknowledged(count)
        history = await workload.stop()
    assert [(item.status, item.error) for item in history.failed] == []
    return history


async def assert_nothing_lost(cluster: Cluster, *histories: History) -> None:
    async with cluster.sql((await cluster.view())["primary"]) as connection:
        for history in histories:
            findings = await check(connection, history)
            assert findings.is_clean, findings


async def test_ctrl_c_stops_everything_and_up_goes_on_with_the_same_primary(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        assert stat.S_IMODE(cluster.ready_file.stat().st_mode) == 0o600
        before = await book_some(cluster, 40)
        view = await cluster.view()
        pids = cluster.ready.pids
        everything = [identify(pid or 0) for pid in (pids.server, pids.controller, *pids.agents.values())]
        everything += [identify(cluster.postmaster(node)) for node in view["nodes"]]
        assert all(everything)
        assert await cluster.interrupt() == 0, cluster.tell()
        assert not [process for process in everything if process is not None and alive(process)]
        assert not cluster.ready_file.exists()

        await cluster.start()
        again = await cluster.wait_healthy()
        assert again["primary"] == view["primary"]
        after = await book_some(cluster, 40)
        await assert_nothing_lost(cluster, before, after)


async def test_after_up_was_killed_the_next_one_takes_over_what_runs(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        before = await book_some(cluster, 40)
        view = await cluster.view()
        old = cluster.ready.pids
        postmasters = {node: cluster.postmaster(node) for node in view["nodes"]}
        await cluster.kill_up()
        async with cluster.session.get(f"{cluster.ports.url(cluster.ports.server)}/readyz") as answer:
            assert answer.status == 200, "the service must go on without its supervisor"

        await cluster.start()
        again = await cluster.wait_healthy()
        assert again["primary"] == view["primary"]
        assert {node: cluster.postmaster(node) for node in view["nodes"]} == postmasters, "PostgreSQL was restarted"
        new = cluster.ready.pids
        gone = [old.server, old.controller, *old.agents.values()]
        assert not set(gone) & {new.server, new.controller, *new.agents.values()}
        assert not [pid for pid in gone if pid is not None and identify(pid) is not None]
        after = await book_some(cluster, 40)
        await assert_nothing_lost(cluster, before, after)


async def test_a_child_that_dies_is_restarted_and_the_ready_file_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        old = cluster.ready.pids
        assert old.controller is not None
        os.kill(old.controller, 9)
        await cluster.wait_healthy()
        assert cluster.ready.pids.controller not in (None, old.controller)
        assert cluster.ready.pids.server == old.server
        await assert_nothing_lost(cluster, await book_some(cluster, 20))
