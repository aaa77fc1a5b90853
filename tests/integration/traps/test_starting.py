"""Starting a primary: closed until it is proved that nothing is lost (DESIGN section 4, starting a primary)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import asyncpg
import pytest

from replication import actions
from replication.actions import Refusal
from replication.model import Comparison, Postmaster, Reason, Role, Stage
from replication.settings_file import Written, render_hba
from replication.wal_end import read_stopped_wal
from replication.wal_files import segment_start
from tests.integration.replication.load import insert
from tests.integration.replication.test_wal_end import until_told
from tests.integration.traps.commits import pid_of, processes, set_names, standing_still, waiting_commits, write
from tests.nodes import one_node, two_nodes


@pytest.mark.both_versions
async def test_after_a_childs_crash_the_agent_ends_the_rest_itself_at_once(tmp_path: Path, bindir: Path) -> None:
    """DESIGN 4: "`restart_after_crash = off`, so that no start bypasses the agent (the postmaster needs 1.7 s to go after a
    child's crash … on that log line the agent kills the rest itself)". A child that stands still makes it 5 s."""
    async with one_node(tmp_path, bindir=bindir) as node:
        await node.first_start()
        client = await node.connect()
        victim = await client.fetchval("SELECT pg_backend_pid()")
        with standing_still(node, "walwriter"):
            began = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            await node.wait(lambda report: report.postmaster is Postmaster.EXITED)
            await node.wait(lambda _: not processes(node))
            assert time.monotonic() - began < 3
        client.terminate()
        report = await node.report()
        assert report.postmaster is Postmaster.EXITED and report.exit_sentence is not None, "nothing came up by itself"


async def test_a_start_that_is_not_closed_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DESIGN 4: "*Closed* is a property of a start, never reached by a reload (open connections stay, and a broken pg_hba
    is silently ignored): the agent checks it with a connection that must be refused (28000)"."""

    def rules_of_an_open_node(node: object, written: Written) -> str:
        return render_hba(node, Written(role=Role.PRIMARY, term=1, revision=1, stage=Stage.OPEN))  # type: ignore[arg-type]

    async with one_node(tmp_path) as node:
        incarnation = await node.first_start()
        status, answer = await node.send(await node.action(actions.SetStage(Stage.CLOSED, incarnation)))
        assert (status, answer["refused"]) == (409, Refusal.WRONG_STATE), "no reload closes what is open"
        await node.act(actions.Stop(10_000, incarnation))
        monkeypatch.setattr("replication.local_node.render_hba", rules_of_an_open_node)
        failed = await node.act(actions.StartPrimary(), ok=False)
        assert failed.reason == Reason.NOT_CLOSED
        assert processes(node) == []


async def test_a_broken_pg_hba_lets_nobody_else_in_and_keeps_nobody_out(tmp_path: Path) -> None:
    """DESIGN 4: "a broken pg_hba is silently ignored" on a reload, and at a start it is fatal: so a start is what closes."""
    async with one_node(tmp_path) as node:
        incarnation = await node.first_start()
        hba = node.running.node.conf_dir / "pg_hba.conf"
        hba.write_text("this is no rule\n")
        await node.running.local.reload()
        await write(node)  # the old rules hold: a reload has closed nothing
        await node.act(actions.Stop(10_000, incarnation))
        await node.act(actions.StartPrimary())  # written anew, and proved closed
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await node.connect("locum_server")


@pytest.mark.both_versions
async def test_the_receive_lsn_of_a_restarted_standby_is_never_taken_for_the_end_of_its_wal(
    tmp_path: Path, bindir: Path
) -> None:
    """DESIGN 4: "never its receive LSN (above the last complete record when live, a segment's start after a restart"."""
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await pair.stream()
        await insert(pair.a, 500)
        wanted = (await pair.a.report()).insert_lsn or 0
        await pair.b.wait(lambda report: (report.replay_lsn or 0) >= wanted)
        await pair.b.act(actions.Fence())
        os.kill(pid_of(pair.a), signal.SIGSTOP)  # b starts, and its walreceiver gets no connection
        await pair.b.act(actions.StartStandby(name="b_g2", upstream="a", slot="locum_b"))
        report = await pair.b.wait(lambda report: report.receive_lsn is not None)
        await pair.a.act(actions.Fence())
        receive_lsn, replay_lsn = report.receive_lsn or 0, report.replay_lsn or 0
        assert receive_lsn == segment_start(replay_lsn) < replay_lsn, "the trap is not set"
        told = await until_told(pair.b)
        assert told.live and told.end_lsn >= wanted
        await pair.a.act(actions.CompareWal("b"))
        comparison = (await pair.a.report()).comparison
        assert comparison is not None and comparison.outcome is Comparison.EQUAL
        assert comparison.peer_end_lsn == told.end_lsn
        await pair.b.act(actions.Fence())
        assert (await read_stopped_wal(pair.b.running.node)).end_lsn == told.end_lsn


@pytest.mark.both_versions
async def test_a_row_whose_commit_waited_at_a_crash_is_shown_to_nobody_before_the_standby_has_it(
    tmp_path: Path, bindir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN 4: "rows whose commit was waiting at a crash are visible after recovery although the standby lacks them":
    "a synchronous probe commit that began after the start has returned" before it opens."""
    monkeypatch.setattr("replication.primary_ops._PROBE_DEADLINE_S", 0.5)
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await pair.stream()
        await set_names(pair.a, "b_g1")
        await pair.b.act(actions.Fence())
        async with waiting_commits(pair.a) as commits:
            await pair.a.act(actions.Fence())
            await asyncio.wait(commits)
        await pair.a.act(actions.StartPrimary(names=("b_g2",)))
        incarnation = (await pair.a.report()).incarnation or ""
        own = await pair.a.running.node.connect(database="locum")
        assert await own.fetchval("SELECT count(*) FROM appointment") == 1, "the trap is not set"
        await pair.a.act(actions.SetStage(Stage.REPLICATING, incarnation))
        refused = await pair.a.act(actions.SetStage(Stage.OPEN, incarnation), ok=False)
        assert refused.reason == Reason.DEADLINE
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await pair.a.connect("locum_server")
        own.terminate()
        await pair.b.act(actions.StartStandby(name="b_g2", upstream="a", slot="locum_b"))
        await pair.a.wait(lambda report: any(s.sync_state == "sync" for s in report.walsenders))
        await pair.a.act(actions.SetStage(Stage.OPEN, incarnation))
        standby = await pair.b.connect()
        assert await standby.fetchval("SELECT count(*) FROM appointment") == 1
        standby.terminate()
