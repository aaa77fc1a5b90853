"""A promotion that nothing holds up, and from whose first step on the old primary can acknowledge nothing (DESIGN section 6)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import asyncpg
import pytest

from replication import actions
from replication.errors import StateError
from replication.model import Reason, Role, Stage
from replication.promotion import Steps, promote
from replication.settings_file import conf_path
from tests.integration.replication.test_promotion import promoted_in
from tests.integration.traps.commits import pid_of, set_names, standing_still, waiting_commits, write
from tests.nodes import Pair, two_nodes

WATCHED_S = 1.0
"""Ten times wal_retrieve_retry_interval: a walreceiver that is to come back has come back by then."""
RESUMED_S_MAX = 0.75
"""A paused replay looks for an order to promote once a second, and the pause has just begun (xlogrecovery.c)."""
ATTEMPTS = 3
"""For busy cores: without the rule no attempt is fast enough."""


class TakenBack(StateError):
    """The order to promote could not be written down."""


async def take_back_after(pair: Pair, watch: float) -> list[str]:
    """Do all of a promotion that comes before its point of no return, look for so many seconds what still streams, and take
    it back: what was seen."""
    local = pair.b.running.local
    state = local.state
    seen: list[str] = []

    async def write_settings() -> None:
        await local.store.change(upstream=None, slot=None)
        await local.write_settings(local.state.revision, durable=False)

    async def recorded() -> None:
        observer = await pair.a.running.node.connect()
        end = time.monotonic() + watch
        while time.monotonic() < end:
            seen.extend(
                row["application_name"]
                for row in await observer.fetch("SELECT application_name FROM pg_stat_replication")
            )
            await asyncio.sleep(0.005)
        observer.terminate()
        raise TakenBack("the disk is gone")

    with pytest.raises(TakenBack):
        await promote(local.node, actions.Promote(), Steps(write_settings, local.supervisor.reload, recorded))
    await local.store.change(upstream=state.upstream, slot=state.slot)
    await local.write_settings(state.revision)
    return seen


async def follow_again(pair: Pair) -> None:
    """What was taken back: b streams under its own name as before."""
    await pair.b.running.local.reload()
    await pair.a.wait(lambda report: any(sender.state == "streaming" for sender in report.walsenders), deadline_s=10)


@pytest.mark.both_versions
async def test_the_walreceiver_does_not_come_back_before_recovery_ends(tmp_path: Path, bindir: Path) -> None:
    """DESIGN 6: "SIGHUP to the startup process itself, then SIGTERM to the walreceiver, see it gone and keep watching until
    recovery ends: a new one is ended too (it came back in 2 of 8 runs on 15 without the SIGHUP"."""
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await pair.stream()
        assert await take_back_after(pair, WATCHED_S) == []
        await follow_again(pair)


@pytest.mark.both_versions
async def test_a_stream_is_ended_although_replay_is_held_up(tmp_path: Path, bindir: Path) -> None:
    """DESIGN 6: "from here the old primary cannot acknowledge; the reload alone does not stop the stream", and "a replay
    that is blocked by one query lets the old primary acknowledge on and on, safe but unbounded"."""
    async with two_nodes(tmp_path, bindir=bindir, postgres={"max_standby_streaming_delay": "-1"}) as pair:
        await pair.stream()
        await set_names(pair.a, "b_g1")
        reader = await hold_replay_up(pair)
        await write(pair.a)  # confirmed: what is received need not be replayed
        promoting = asyncio.create_task(take_back_after(pair, WATCHED_S))
        await pair.a.wait(lambda report: not report.walsenders, deadline_s=5)
        async with waiting_commits(pair.a) as commits:
            assert await promoting == []
            assert not commits[0].done()
        reader.terminate()
        await follow_again(pair)


async def hold_replay_up(pair: Pair) -> asyncpg.Connection:
    """A reader on b whose snapshot a record from a conflicts with, and with which replay waits."""
    reader = await pair.b.connect()
    await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await reader.execute("SELECT count(*) FROM appointment")
    writer = await pair.a.connect()
    await writer.execute("ALTER TABLE appointment ADD COLUMN extra text")
    writer.terminate()
    await pair.b.wait(lambda report: (report.receive_lsn or 0) > (report.replay_lsn or 0))
    return reader


@pytest.mark.both_versions
async def test_a_paused_replay_is_resumed_before_the_order_to_promote(tmp_path: Path, bindir: Path) -> None:
    """DESIGN 6: "`pg_wal_replay_resume()` (a promotion while replay is paused costs up to 1 s"."""
    took_s: list[float] = []
    while not took_s or (took_s[-1] > RESUMED_S_MAX and len(took_s) < ATTEMPTS):
        async with two_nodes(tmp_path / str(len(took_s)), bindir=bindir) as pair:
            await pair.stream()
            connection = await pair.b.connect()
            await connection.execute("SELECT pg_wal_replay_pause()")
            while await connection.fetchval("SELECT pg_get_wal_replay_pause_state()") != "paused":
                await asyncio.sleep(0.001)
            took_s.append(await promoted_in(pair))
    assert min(took_s) < RESUMED_S_MAX


@pytest.mark.both_versions
async def test_a_promotion_that_is_late_stays_pending_and_is_seen_through(
    tmp_path: Path, bindir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN 6: "a pending promotion fires as soon as replay resumes": one that missed its deadline is not taken back, the
    old primary stays cut off, and to promote again finishes it."""
    monkeypatch.setattr("replication.promotion._DEADLINE_MS", 500)
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await pair.stream()
        await set_names(pair.a, "b_g1")
        with standing_still(pair.b, "startup"):
            late = await pair.b.act(actions.Promote(), ok=False, term=2)
            assert late.reason == Reason.DEADLINE
            report = await pair.b.report()
            assert report.in_recovery and report.configured_role is Role.STANDBY
            assert "primary_conninfo = ''\n" in conf_path(pair.b.running.node).read_text()
            assert (pair.b.settings.data_dir / "promote").exists(), "the trap is not set"
            async with waiting_commits(pair.a) as commits:
                assert (await asyncio.wait(commits, timeout=0.3))[0] == set()
        await pair.b.wait(lambda report: report.in_recovery is False, deadline_s=10)
        await pair.b.act(actions.Promote(), term=2)
        report = await pair.b.report()
        assert (report.configured_role, report.stage, report.timeline) == (Role.PRIMARY, Stage.OPEN, 2)
        await asyncio.wait_for(write(pair.b), 5)


@pytest.mark.both_versions
async def test_a_pending_promotion_does_not_outlive_the_start_that_it_was_meant_for(
    tmp_path: Path, bindir: Path
) -> None:
    """DESIGN 6: "killed b's postmaster (exit confirmed), removed the promote signal file and found no new timeline",
    and "a pending promotion fires as soon as replay resumes"."""
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await pair.stream()
        await pair.b.act(actions.Fence())
        for name in ("promote", "fallback_promote"):
            (pair.b.settings.data_dir / name).touch()
        first = pid_of(pair.b)
        await pair.b.act(actions.StartStandby(name="b_g2", upstream="a", slot="locum_b"))
        assert pid_of(pair.b) != first
        await pair.a.wait(lambda report: any(s.name == "b_g2" and s.state == "streaming" for s in report.walsenders))
        report = await pair.b.report()
        assert report.in_recovery and report.timeline == 1
        assert not (pair.b.settings.data_dir / "promote").exists()
        assert not (pair.b.settings.data_dir / "fallback_promote").exists()
