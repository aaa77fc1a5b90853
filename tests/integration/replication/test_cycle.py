"""The sequences of DESIGN section 6, played by hand on two real nodes: grow, failover, return, switchover, cold start."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from replication import actions
from replication.errors import SQL_ERRORS
from replication.model import Comparison, NodeReport, Postmaster, Reason, Stage
from tests.nodes import POSTGRES_15, NodeUnderTest, Pair, two_nodes

needs_15 = pytest.mark.skipif(not (POSTGRES_15 / "postgres").exists(), reason="no system PostgreSQL 15")


async def grown(pair: Pair) -> NodeReport:
    """Streaming, certified and grown: commits on a wait for b. The primary's report."""
    await pair.stream()
    await pair.b.act(actions.Certify(peer_redo_lsn=(await pair.a.report()).redo_lsn or 0))
    a, b = await pair.a.report(), await pair.b.report()
    await pair.a.act(actions.Grow("b_g1", "b", a.incarnation or "", b.incarnation or ""))
    report = await pair.a.report()
    assert report.growth is not None and report.growth.proved, report.growth
    return report


async def write(node: NodeUnderTest, number: int) -> None:
    client = await node.connect("locum_server")
    await client.execute("INSERT INTO appointment VALUES ($1, 'x')", number)
    await client.close()


async def numbers(node: NodeUnderTest) -> list[int]:
    client = await node.connect("locum_server")
    rows = await client.fetch("SELECT id FROM appointment ORDER BY id")
    await client.close()
    return [row["id"] for row in rows]


async def kill(node: NodeUnderTest) -> None:
    pid = int(((await node.report()).incarnation or "").split(":")[0])
    os.kill(pid, signal.SIGKILL)
    await node.wait(lambda report: report.postmaster is Postmaster.EXITED, deadline_s=5)


@pytest.mark.parametrize("bindir", [None, pytest.param(POSTGRES_15, marks=[needs_15, pytest.mark.postgres15])])
async def test_grow_failover_and_return(tmp_path: Path, bindir: Path | None) -> None:
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        report = await grown(pair)
        assert report.names == ("b_g1",) and report.growth is not None
        sender = next(sender for sender in report.walsenders if sender.name == "b_g1")
        assert (sender.pid, sender.sync_state) == (report.growth.walsender_pid, "sync")
        certificate = (await pair.b.report()).certificate
        assert certificate is not None and certificate.pages > 0 and certificate.checked_through_lsn > 0
        await write(pair.a, 1)
        await pair.b.act(actions.Promote(slots=("locum_a",)), term=2)
        unacknowledged = asyncio.ensure_future(write(pair.a, 99))
        await pair.a.wait(lambda report: report.commit_waiting_ms is not None, deadline_s=5)
        await kill(pair.a)
        with pytest.raises(SQL_ERRORS):
            await unacknowledged
        assert await numbers(pair.b) == [1]
        await write(pair.b, 2)
        refused = await pair.a.act(actions.StartStandby("a_g2", "b", "locum_a"), ok=False, term=2)
        assert refused.reason in (Reason.HISTORY_DIFFERS, Reason.AHEAD), refused
        await pair.a.act(actions.Rebuild(source="b", slot="locum_a", nonce="n2", fast_checkpoint=True), term=2)
        rebuilt = await pair.a.report()
        assert rebuilt.rebuilt_revision == rebuilt.revision and rebuilt.postmaster is Postmaster.EXITED
        await pair.a.act(actions.StartStandby("a_g3", "b", "locum_a"), term=2)
        await pair.a.wait(lambda report: report.receiver is not None and report.receiver.status == "streaming")
        a, b = await pair.a.report(), await pair.b.report()
        assert a.timeline == b.timeline == 2
        await pair.b.act(actions.Grow("a_g3", "a", b.incarnation or "", a.incarnation or ""), term=2)
        growth = (await pair.b.report()).growth
        assert growth is not None and growth.proved, growth
        await write(pair.b, 3)
        assert await numbers(pair.b) == [1, 2, 3]


async def test_switchover_and_the_old_primary_follows_without_a_rebuild(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        report = await grown(pair)
        await write(pair.a, 1)
        await pair.a.act(actions.Checkpoint(report.incarnation or ""))
        await pair.a.act(actions.Stop(10_000, report.incarnation or ""))
        stopped = (await pair.a.report()).planned_stop
        assert stopped is not None
        await pair.b.wait(
            lambda report: report.receiver is None and (report.replay_lsn or 0) > stopped.checkpoint_lsn, deadline_s=5
        )
        await pair.b.act(actions.Promote(slots=("locum_a",)), term=2)
        await write(pair.b, 2)
        await pair.a.act(actions.StartStandby("a_g2", "b", "locum_a"), term=2)
        await pair.b.wait(lambda report: any(s.name == "a_g2" and s.state == "streaming" for s in report.walsenders))
        b = await pair.b.report()
        await pair.a.wait(lambda report: (report.replay_lsn or 0) >= (b.flush_lsn or 0), deadline_s=5)
        assert await numbers(pair.a) == [1, 2]


async def test_a_primary_and_its_standby_that_were_both_killed_start_again(tmp_path: Path) -> None:
    """Cold start: comparison of the WAL offline, closed, replicating, the standby under a new name, open, grow."""
    async with two_nodes(tmp_path) as pair:
        await grown(pair)
        await write(pair.a, 1)
        await asyncio.gather(kill(pair.a), kill(pair.b))
        await pair.a.act(actions.CompareWal("b"))
        comparison = (await pair.a.report()).comparison
        assert comparison is not None and comparison.outcome is Comparison.EQUAL, comparison
        await pair.a.act(actions.StartPrimary(names=("b_g2",), slots=("locum_b",)))
        incarnation = (await pair.a.report()).incarnation or ""
        await pair.a.act(actions.SetStage(Stage.REPLICATING, incarnation))
        await pair.b.act(actions.StartStandby("b_g2", "a", "locum_b"))
        await pair.a.act(actions.SetStage(Stage.OPEN, incarnation))
        b = await pair.b.report()
        await pair.a.act(actions.Grow("b_g2", "b", incarnation, b.incarnation or ""))
        growth = (await pair.a.report()).growth
        assert growth is not None and growth.proved, growth
        await write(pair.a, 2)
        assert await numbers(pair.a) == [1, 2]


async def test_an_eligible_standby_is_promoted_after_its_own_restart_without_an_upstream(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await grown(pair)
        await write(pair.a, 1)
        await asyncio.gather(kill(pair.a), kill(pair.b))
        await pair.b.act(actions.StartStandby("b_g2", None), term=2)
        report = await pair.b.report()
        assert report.in_recovery and report.receiver is None
        await pair.b.act(actions.Promote(slots=("locum_a",)), term=2)
        assert await numbers(pair.b) == [1]


async def test_a_standby_whose_primary_cannot_be_asked_does_not_start(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        await kill(pair.b)
        await pair.a.end_agent()
        result = await pair.b.act(actions.StartStandby("b_g2", "a", "locum_b"), ok=False)
        assert result.reason == Reason.CANNOT_ASK
        assert (await pair.b.report()).postmaster is Postmaster.EXITED


async def test_a_rebuild_is_ended_by_a_fence_and_leaves_what_cannot_start(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.a.first_start()
        await pair.a.act(actions.EnsureSlot("locum_b"))
        rebuild = await pair.b.action(actions.Rebuild(source="a", slot="locum_b", nonce="n1"))
        assert (await pair.b.send(rebuild))[0] == 202
        report = await pair.a.wait(
            lambda report: any(sender.name == "rebuild_b_n1" for sender in report.walsenders), deadline_s=5
        )
        frozen = [sender.pid for sender in report.walsenders]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        await pair.b.act(actions.Fence())
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
        report = await pair.b.report()
        assert report.data in ("half_built", "empty") and report.results[-2].reason == Reason.INTERRUPTED
        status, answer = await pair.b.send(await pair.b.action(actions.StartStandby("b_g1", "a")))
        assert (status, answer["refused"]) == (409, "wrong_state")
        await pair.a.wait(lambda report: report.walsenders == (), deadline_s=5)
        await pair.b.act(actions.Rebuild(source="a", slot="locum_b", nonce="n2", fast_checkpoint=True))
        assert (await pair.b.report()).data == "present"
