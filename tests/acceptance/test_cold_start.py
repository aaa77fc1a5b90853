"""Both nodes go at once: who is started again, who is waited for, and nothing is lost (DESIGN section 4, starting)."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import fhir
from tests.acceptance.checker import check
from tests.acceptance.cluster import Cluster, running
from tests.acceptance.workload import Workload

ROUNDS = int(os.environ.get("LOCUM_ROUNDS", "3"))
LOST_BYTES = 40_000
OPEN_MS_MAX = 20_000
"""The longest that a client may wait. Generous, for two busy cores: an idle machine needs half a second, and three with
the agents' restart."""


def kill_everything(cluster: Cluster, *, agents: bool) -> None:
    """SIGKILL of both PostgreSQL nodes, in either order, and of both agents before."""
    for node in "ab" if agents else "":
        cluster.kill_agent(node)
    for node in random.sample("ab", 2):
        cluster.kill_postgres(node)


@pytest.mark.timeout(240 + 30 * ROUNDS)
@pytest.mark.parametrize("agents", [False, True], ids=["agents-stay", "agents-too"])
async def test_both_nodes_killed_at_once_come_back_with_every_booking(tmp_path: Path, agents: bool) -> None:
    async with running(tmp_path, "--demo-practitioners", "60") as cluster:
        proposals = await fhir.endless(cluster.session, cluster.ready.server)
        async with Workload(cluster.ready.server, proposals, rate=50) as workload:
            for _ in range(ROUNDS):
                await cluster.wait_healthy()
                await workload.until_acknowledged(random.randrange(20, 60))
                await asyncio.to_thread(kill_everything, cluster, agents=agents)
                await workload.until_acknowledged(50)
                await workload.until_caught_up()
            view = await cluster.wait_healthy()
            history = await workload.stop()
        assert [(item.status, item.error) for item in history.failed] == []
        assert history.slowest_ms() < OPEN_MS_MAX
        async with cluster.sql(view["primary"]) as connection:
            findings = await check(connection, history)
        assert findings.is_clean, findings
        print(f"{ROUNDS} rounds, {len(history.acknowledged)} bookings, the slowest {history.slowest_ms():.0f} ms")
        kinds = {incident["verdict"]["kind"] for incident in await cluster.incidents()}
        assert kinds <= {"process_dead"}, "nothing was lost, so wal_lost must not be named"


@pytest.mark.parametrize("comes_back", ["primary", "standby"])
async def test_one_node_alone_is_not_enough_and_the_status_says_whom_to_bring_back(
    tmp_path: Path, comes_back: str
) -> None:
    async with running(tmp_path, "--demo-practitioners", "20") as cluster:
        before = await cluster.view()
        primary = before["primary"]
        standby = next(name for name in before["nodes"] if name != primary)
        gone = standby if comes_back == "primary" else primary
        proposals = await fhir.endless(cluster.session, cluster.ready.server)
        async with Workload(cluster.ready.server, proposals, rate=50) as workload:
            await workload.until_acknowledged(50)
            history = await workload.stop()
        # Its agent stands still, so nobody can ask it and nobody starts its PostgreSQL: as if its host were down.
        cluster.kill_agent(gone, signal.SIGSTOP)
        await asyncio.to_thread(kill_everything, cluster, agents=False)

        def says_so(view: dict[str, Any]) -> bool:
            return view["phase"] == "no_primary" and f"bring the host of {gone} back" in (view["next_step"] or "")

        view = await cluster.wait_until(says_so)
        assert (view["term"], view["primary"]) == (before["term"], primary), "nothing was promoted"
        assert not any(node["promotable"] for node in view["nodes"].values())
        cluster.kill_agent(gone, signal.SIGCONT)
        view = await cluster.wait_healthy()
        async with cluster.sql(view["primary"]) as connection:
            findings = await check(connection, history)
        assert findings.is_clean, findings


async def test_a_primary_that_lost_the_end_of_its_wal_while_all_was_down_is_replaced_by_the_good_copy(
    tmp_path: Path,
) -> None:
    """DESIGN section 4: started as it is, such a primary would let its standby throw the last good copy away, and "A
    disk that lost the tail of WAL ends recovery without any error"."""
    async with running(tmp_path, "--demo-practitioners", "20") as cluster:
        before = await cluster.view()
        primary = before["primary"]
        proposals = await fhir.endless(cluster.session, cluster.ready.server)
        async with Workload(cluster.ready.server, proposals, rate=50) as workload:
            await workload.until_acknowledged(100)
            history = await workload.stop()
        await cluster.crash()
        zeroed = zero_wal_tail(cluster.layout.pgdata(primary) / "pg_wal", LOST_BYTES)
        assert zeroed == LOST_BYTES
        await cluster.start()
        view = await cluster.wait_healthy()
        assert (view["primary"], view["term"]) == (standby_of(view, primary), before["term"] + 1)
        async with cluster.sql(view["primary"]) as connection:
            findings = await check(connection, history)
        assert findings.is_clean, findings
        (incident,) = await cluster.incidents()
        assert (incident["verdict"]["kind"], incident["verdict"]["cause"]) == ("wal_lost", "corruption")
        assert incident["node"] == primary


def standby_of(view: dict[str, Any], primary: str) -> str:
    return next(name for name in view["nodes"] if name != primary)


def zero_wal_tail(pg_wal: Path, count: int) -> int:
    """Zero the last `count` bytes of WAL that hold anything, as a disk that lost its last writes; how many it were."""
    left = count
    for segment in sorted(pg_wal.glob("0" * 7 + "?" * 17), reverse=True):
        content = segment.read_bytes()
        used = len(content.rstrip(b"\0"))
        start = max(0, used - left)
        segment.write_bytes(content[:start] + bytes(len(content) - start))
        left -= used - start
        if left == 0:
            break
    return count - left
