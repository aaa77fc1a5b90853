"""Two real nodes: streaming, what each side sees when the other goes, promotion through the agent."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import msgspec
import pytest

from replication import actions
from replication.model import NodeReport, Postmaster, Role, Stage
from replication.wire.sse import subscribe
from tests.nodes import POSTGRES_15, NodeUnderTest, two_nodes

needs_15 = pytest.mark.skipif(not (POSTGRES_15 / "postgres").exists(), reason="no system PostgreSQL 15")


async def follow(node: NodeUnderTest, reports: asyncio.Queue[tuple[float, NodeReport]]) -> None:
    async for event in subscribe(node.session, f"{node.url}/v1/events", idle_ms=5_000):
        reports.put_nowait((time.monotonic(), msgspec.json.decode(event.data, type=NodeReport)))


@pytest.mark.parametrize("bindir", [None, pytest.param(POSTGRES_15, marks=[needs_15, pytest.mark.postgres15])])
async def test_a_killed_primary_is_known_to_both_agents_and_the_standby_is_promoted(
    tmp_path: Path, bindir: Path | None
) -> None:
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await pair.stream()
        standby = await pair.b.report(witness=True)
        assert standby.in_recovery and standby.receiver is not None and standby.receiver.name == "b_g1"
        assert standby.witness is not None and standby.witness.tcp == "connected"
        reports: asyncio.Queue[tuple[float, NodeReport]] = asyncio.Queue()
        following = asyncio.ensure_future(follow(pair.b, reports))
        await asyncio.wait_for(reports.get(), 5)
        incarnation = (await pair.a.report()).incarnation or ""
        killed = time.monotonic()
        await pair.a.act(actions.Fence())
        async with asyncio.timeout(5):
            while True:
                at, report = await reports.get()
                if report.receiver is None and report.witness is not None and report.witness.tcp == "refused":
                    break
        print(f"walreceiver gone and witness refused told {1000 * (at - killed):.0f} ms after the fence was asked for")
        assert at - killed < 2
        await pair.b.act(actions.Promote(slots=("locum_a",)), term=2)
        following.cancel()
        promoted = await pair.b.report()
        assert (promoted.in_recovery, promoted.timeline, promoted.configured_role) == (False, 2, Role.PRIMARY)
        assert promoted.stage is Stage.OPEN and promoted.names == () and promoted.promoted_lsn is not None
        assert [slot.name for slot in promoted.slots] == ["locum_a"]
        client = await pair.b.connect("locum_server")
        assert await client.fetchval("SHOW locum.term") == "2"
        await client.execute("INSERT INTO appointment VALUES (2, 'after')")
        await client.close()
        assert (await pair.a.report()).incarnation == incarnation


async def test_a_lost_standby_is_seen_by_the_primary_at_once(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        report = await pair.b.report()
        os.kill(int((report.incarnation or "").split(":")[0]), signal.SIGKILL)
        await pair.b.wait(lambda report: report.postmaster is Postmaster.EXITED, deadline_s=2)
        await pair.a.wait(lambda report: report.walsenders == (), deadline_s=2)
        assert [slot.active for slot in (await pair.a.report()).slots] == [False]


async def test_a_pause_of_replay_is_lifted_by_itself(tmp_path: Path) -> None:
    async with two_nodes(tmp_path, replay_pause_max_ms=300) as pair:
        await pair.stream()
        status, _ = await _post(pair.b, "/v1/replay/pause")
        assert status == 200
        report = await pair.b.report()
        assert report.replay_paused_by_probe
        await pair.b.wait(lambda report: not report.replay_paused and not report.replay_paused_by_probe, deadline_s=5)
        assert (await _post(pair.a, "/v1/replay/pause"))[0] == 409


async def _post(node: NodeUnderTest, path: str) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {node.token}"}
    async with node.session.post(node.url + path, headers=headers) as answer:
        return answer.status, await answer.read()
