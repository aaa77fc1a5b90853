"""Growing and shrinking the list of those who must confirm (DESIGN section 4, growing and shrinking)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from replication import actions
from replication.actions import Refusal
from replication.model import Stage
from tests.integration.traps.commits import grow, set_names, standing_still, waiting_commits, write
from tests.nodes import Pair, one_node, two_nodes

_PROBE_LOCKS = """
SELECT l.locktype, l.mode FROM pg_stat_activity a JOIN pg_locks l USING (pid)
WHERE a.wait_event = 'SyncRep' AND a.query LIKE '%locum.growth%' AND l.locktype NOT IN ('virtualxid', 'transactionid')
"""
_PROBES = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%locum.growth%'"


async def test_a_relax_goes_through_the_checkpointer_and_until_it_runs_the_waiters_are_told_of(tmp_path: Path) -> None:
    """DESIGN 4: "It goes through the checkpointer: with one that hangs on a stalled disk the waiters stay"."""
    async with one_node(tmp_path) as node:
        await node.first_start()
        await set_names(node, "ghost")
        async with waiting_commits(node) as commits:
            with standing_still(node, "checkpointer"):
                await set_names(node)
                assert (await asyncio.wait(commits, timeout=0.5))[0] == set()
                before = await node.report()
                after = await node.wait(lambda report: report.clock_ms > before.clock_ms + 600)
                assert (after.commit_waiting_ms or 0) > (before.commit_waiting_ms or 0) > 0
            await asyncio.wait_for(asyncio.gather(*commits), 5)


@pytest.mark.both_versions
async def test_a_growth_probe_whose_client_died_holds_up_nobody(
    tmp_path: Path, bindir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN 4: "a probe … that locks no row (`pg_logical_emit_message(true, …)`: one whose client had died left a row
    lock behind"."""
    monkeypatch.setattr("replication.growth_probe._STAYS_S", 60.0)
    async with two_nodes(tmp_path, bindir=bindir, replay_pause_max_ms=2_000) as pair:
        await pair.stream()
        await begin_growth(pair)
        # Both agents die while the probe waits: its client is gone, and nobody lifts the pause.
        observer = await pair.a.connect()
        await pair.b.end_agent()
        await pair.a.end_agent()
        assert await observer.fetchval(_PROBES) == 1
        assert [tuple(row) for row in await observer.fetch(_PROBE_LOCKS)] == []
        await asyncio.wait_for(write(pair.a), 5)
        await pair.b.start_agent()
        async with asyncio.timeout(5):
            while await observer.fetchval(_PROBES):
                await asyncio.sleep(0.01)
        observer.terminate()


async def begin_growth(pair: Pair) -> None:
    """Return while the probe commit waits for the paused standby."""
    a, b = await pair.a.report(), await pair.b.report()
    action = await pair.a.action(actions.Grow("b_g1", "b", a.incarnation or "", b.incarnation or ""))
    assert (await pair.a.send(action))[0] == 202
    await pair.a.wait(lambda report: (report.commit_waiting_ms or 0) > 100, deadline_s=5)


async def test_a_relax_that_arrives_after_the_grow_changes_nothing(tmp_path: Path) -> None:
    """DESIGN 4: "Every action carries the store revision at which it was decided" … "A "relax" from a paused controller,
    or one stuck on a stalled disk, has the same *term* as the "grow" that followed it"."""
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        assert (await grow(pair)).proved
        report = await pair.a.report()
        relax = actions.SetNames((), report.incarnation or "")
        for revision in (report.revision - 1, report.revision):
            status, answer = await pair.a.send(await pair.a.action(relax, revision=revision))
            assert (status, answer["refused"]) == (409, Refusal.STALE_REVISION)
        again = await pair.a.wait(lambda now: now.doing is None)
        assert again.names == ("b_g1",)
        with standing_still(pair.b):
            async with waiting_commits(pair.a) as commits:
                assert (await asyncio.wait(commits, timeout=0.3))[0] == set()


async def test_a_set_of_limits_that_differs_pauses_replay_and_is_told(tmp_path: Path) -> None:
    """DESIGN 4: "`max_connections`, `max_worker_processes`, … are identical everywhere, raised on the standby first:
    otherwise replay pauses while flush_lsn goes on"; a standby whose replay is paused is not promotable."""
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        limits = ("max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions")
        for limit in (*limits, "max_locks_per_transaction"):
            shown = [await (await node.running.node.connect()).fetchval(f"SHOW {limit}") for node in (pair.a, pair.b)]
            assert shown[0] == shown[1], limit
        await pair.a.act(actions.Stop(10_000, (await pair.a.report()).incarnation or ""))
        pair.a.settings.postgres["max_connections"] = "140"
        await pair.a.act(actions.StartPrimary())
        await pair.a.act(actions.SetStage(Stage.OPEN, (await pair.a.report()).incarnation or ""))
        report = await pair.b.wait(lambda report: report.replay_paused, deadline_s=10)
        assert not report.replay_paused_by_probe
        await write(pair.a)
        await pair.b.wait(lambda now: (now.receive_lsn or 0) > (now.replay_lsn or 0) >= (report.replay_lsn or 0))
