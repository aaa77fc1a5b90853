"""One node over its life with a real PostgreSQL: made, started closed, opened, stopped, killed, adopted, fenced."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from replication import actions
from replication.actions import Refusal
from replication.agent import running_agent
from replication.errors import SQL_ERRORS, ForeignData
from replication.installation import find_installation
from replication.model import DataDirectory, Postmaster, Reason, Role, Stage
from replication.proc import all_stats, servers_of
from tests.nodes import POSTGRES_15, NodeUnderTest, make_settings, one_node

needs_15 = pytest.mark.skipif(not (POSTGRES_15 / "postgres").exists(), reason="no system PostgreSQL 15")


LONG_QUERY = "SELECT count(*) FROM generate_series(1, 3000) a, generate_series(1, 3000) b, generate_series(1, 100) c"
"""Half a minute of work, in which a backend does not look whether its postmaster lives."""


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[NodeUnderTest]:
    async with one_node(tmp_path) as node:
        yield node


def pid_of(incarnation: str | None) -> int:
    assert incarnation is not None
    return int(incarnation.split(":")[0])


def processes(node: NodeUnderTest) -> list[int]:
    return [pid for pid in servers_of(str(node.settings.data_dir.resolve()), list(all_stats())) if not _dead(pid)]


def _dead(pid: int) -> bool:
    stat = all_stats().get(pid)
    return stat is None or stat.dead


@pytest.mark.parametrize("bindir", [None, pytest.param(POSTGRES_15, marks=[needs_15, pytest.mark.postgres15])])
async def test_a_first_start_from_nothing_to_a_write_of_the_server(tmp_path: Path, bindir: Path | None) -> None:
    async with one_node(tmp_path, bindir=bindir) as node:
        assert (await node.report()).data is DataDirectory.EMPTY
        incarnation = await node.first_start(fresh=True)
        report = await node.report()
        assert (report.postmaster, report.stage, report.configured_role) == (
            Postmaster.RUNNING, Stage.OPEN, Role.PRIMARY,
        )  # fmt: skip
        assert report.incarnation == incarnation and report.system_identifier and report.schema_applied
        server = await node.connect("locum_server")
        assert await server.execute("INSERT INTO appointment VALUES (1, 'x')") == "INSERT 0 1"
        assert await server.fetchval("SHOW locum.term") == "1"
        assert await server.fetchval("SHOW data_checksums") == "on"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await server.execute("CREATE TABLE mine ()")
        await server.close()


async def test_closed_refuses_everybody_but_the_agent(node: NodeUnderTest) -> None:
    incarnation = await node.first_start(stage=Stage.CLOSED)
    for user in ("locum_server", "postgres"):
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError) as caught:
            await node.connect(user)
        assert caught.value.sqlstate == "28000"
    await node.act(actions.SetStage(Stage.REPLICATING, incarnation))
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await node.connect("locum_server")
    await node.act(actions.SetStage(Stage.OPEN, incarnation))
    await (await node.connect("locum_server")).close()


async def test_closed_is_a_property_of_a_start(node: NodeUnderTest) -> None:
    """After a crash the next start is closed again, though the one before was open."""
    await node.first_start()
    os.kill(pid_of((await node.report()).incarnation), signal.SIGKILL)
    await node.wait(lambda report: report.postmaster is Postmaster.EXITED)
    await node.act(actions.StartPrimary(names=("b_g1",)))
    report = await node.report()
    assert report.stage is Stage.CLOSED and report.names == ("b_g1",)
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await node.connect("locum_server")


async def test_a_killed_postmaster_is_seen_at_once_and_its_backends_are_ended(node: NodeUnderTest) -> None:
    """DESIGN 4: "After a SIGKILL of the postmaster alone a running query was answered 2.2 s later"."""
    incarnation = await node.first_start()
    client = await node.connect()
    busy = asyncio.ensure_future(client.fetchval(LONG_QUERY))
    seen = asyncio.Event()
    node.running.supervisor.process.exited.add_done_callback(lambda _: seen.set())  # type: ignore[union-attr]
    began = time.monotonic()
    os.kill(pid_of(incarnation), signal.SIGKILL)
    await asyncio.wait_for(seen.wait(), 2)
    assert time.monotonic() - began < 0.5
    report = await node.wait(lambda report: report.postmaster is Postmaster.EXITED)
    assert report.exit_sentence == "killed by signal 9"
    assert report.in_recovery is None and report.sql is None
    end = time.monotonic() + 5
    while processes(node):
        assert time.monotonic() < end, processes(node)
        await asyncio.sleep(0.005)
    with pytest.raises(SQL_ERRORS):
        await busy


async def test_a_fence_kills_every_process_within_a_moment(tmp_path: Path) -> None:
    async with one_node(tmp_path) as node:
        incarnation = await node.first_start()
        clients = await asyncio.gather(*(node.connect() for _ in range(60)))
        sleeping = [asyncio.ensure_future(client.execute("SELECT pg_sleep(60)")) for client in clients]
        assert len(processes(node)) > 60
        result = await node.act(actions.Fence())
        assert processes(node) == []
        report = await node.report()
        assert report.fenced and not report.fence_held and report.postmaster is Postmaster.EXITED
        assert report.exit_sentence is None, "the agent itself ended it"
        assert "processes killed" in result.sentence
        assert report.incarnation == incarnation
        for outcome in await asyncio.gather(*sleeping, return_exceptions=True):
            assert isinstance(outcome, BaseException)
        for client in clients:
            client.terminate()


async def test_a_fence_ends_a_stopped_postmaster_too(node: NodeUnderTest) -> None:
    os.kill(pid_of(await node.first_start()), signal.SIGSTOP)
    await node.act(actions.Fence())
    assert processes(node) == []


async def test_a_fence_held_by_an_operator_survives_the_agent(node: NodeUnderTest) -> None:
    await node.first_start()
    await node.act(actions.Fence(hold=True))
    await node.end_agent()
    await node.start_agent()
    assert (await node.report()).fence_held
    status, answer = await node.send(await node.action(actions.StartPrimary()))
    assert (status, answer["refused"]) == (409, Refusal.FENCE_HELD)
    await node.act(actions.Unfence())
    await node.act(actions.StartPrimary())
    report = await node.report()
    assert not report.fence_held and not report.fenced


async def test_a_fence_ends_the_action_under_way(node: NodeUnderTest) -> None:
    incarnation = await node.first_start()
    await node.act(actions.SetNames(("nobody_g1",), incarnation))
    stop = await node.action(actions.Stop(30_000, incarnation))
    waiting = await insert_that_waits(node)
    assert (await node.send(stop))[0] == 202
    await node.act(actions.Fence())
    report = await node.report()
    ended = next(result for result in report.results if result.revision == stop.revision)
    assert not ended.ok and ended.reason == Reason.INTERRUPTED
    assert report.doing is None and processes(node) == []
    with pytest.raises(SQL_ERRORS):
        await waiting


async def insert_that_waits(node: NodeUnderTest) -> asyncio.Task[None]:
    """An insert whose commit is waiting for the standby now (a heartbeat's does not count)."""
    waiting = asyncio.create_task(_insert(node))
    observer = await node.connect()
    waits = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = 'locum')"
    async with asyncio.timeout(10):
        while not await observer.fetchval(waits):
            await asyncio.sleep(0.005)
    await observer.close()
    return waiting


async def _insert(node: NodeUnderTest) -> None:
    client = await node.connect()
    try:
        await client.execute("INSERT INTO appointment VALUES (7, 'waits')")
    finally:
        client.terminate()


async def test_a_planned_stop_is_remembered_and_found_intact(node: NodeUnderTest) -> None:
    incarnation = await node.first_start()
    await node.act(actions.Stop(10_000, incarnation))
    report = await node.report()
    assert report.postmaster is Postmaster.EXITED and report.exit_sentence is None and not report.fenced
    assert report.planned_stop is not None and report.planned_stop.intact and report.planned_stop.timeline == 1
    await node.end_agent()
    await node.start_agent()
    again = await node.report()
    assert again.planned_stop == report.planned_stop and again.postmaster is Postmaster.ABSENT
    assert again.last_observed_flush_lsn is None or again.last_observed_flush_lsn <= report.planned_stop.checkpoint_lsn
    await node.act(actions.StartPrimary())
    assert (await node.report()).planned_stop is None


async def test_a_stop_waits_for_commits_that_wait_and_fences_at_its_deadline(node: NodeUnderTest) -> None:
    incarnation = await node.first_start()
    await node.act(actions.SetNames(("nobody_g1",), incarnation))
    waiting = await insert_that_waits(node)
    result = await node.act(actions.Stop(400, incarnation), ok=False)
    assert result.reason == Reason.DEADLINE
    report = await node.report()
    assert report.fenced and report.planned_stop is None and processes(node) == []
    with pytest.raises(SQL_ERRORS):
        await waiting


async def test_names_are_shown_when_the_action_ends_and_let_waiters_go_when_emptied(node: NodeUnderTest) -> None:
    incarnation = await node.first_start()
    await node.act(actions.SetNames(("nobody_g1",), incarnation))
    assert (await node.report()).names == ("nobody_g1",)
    waiting = await insert_that_waits(node)
    await node.wait(lambda report: report.commit_waiting_ms is not None)
    await node.act(actions.SetNames((), incarnation))
    await asyncio.wait_for(waiting, 5)
    report = await node.report()
    assert report.names == () and report.names_revision == report.revision


async def test_an_action_on_a_primary_that_dies_ends_at_once_so_that_it_can_be_brought_back(
    node: NodeUnderTest,
) -> None:
    incarnation = await node.first_start()
    rename = await node.action(actions.SetNames(("b_g1",), incarnation))
    os.kill(pid_of(incarnation), signal.SIGSTOP)
    assert (await node.send(rename))[0] == 202
    began = time.monotonic()
    os.kill(pid_of(incarnation), signal.SIGKILL)
    report = await node.wait(lambda report: any(result.revision == rename.revision for result in report.results))
    assert time.monotonic() - began < 3, "it went on trying to connect to a server that does not run"
    assert report.postmaster is Postmaster.EXITED
    ended = next(result for result in report.results if result.revision == rename.revision)
    assert not ended.ok and ended.reason == Reason.FAILED


async def test_open_needs_a_commit_that_came_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DESIGN 4: "rows whose commit was waiting at a crash are visible after recovery although the standby lacks them"."""
    monkeypatch.setattr("replication.primary_ops._PROBE_DEADLINE_S", 0.3)
    async with one_node(tmp_path) as node:
        await node.first_start(stage=Stage.CLOSED)
        incarnation = (await node.report()).incarnation or ""
        await node.act(actions.SetNames(("nobody_g1",), incarnation))
        result = await node.act(actions.SetStage(Stage.OPEN, incarnation), ok=False)
        assert result.reason == Reason.DEADLINE
        assert (await node.report()).stage is Stage.CLOSED
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await node.connect("locum_server")


async def test_the_heartbeat_moves_the_wal_of_an_idle_primary(node: NodeUnderTest) -> None:
    await node.first_start()
    first = (await node.report()).flush_lsn
    assert first is not None
    beats = node.running.heartbeat
    await node.wait(lambda _: beats.returned_started_ms is not None, deadline_s=5)
    await node.wait(lambda report: report.flush_lsn is not None and report.flush_lsn > first, deadline_s=5)


async def test_inherited_alter_system_settings_do_not_survive_a_start(node: NodeUnderTest) -> None:
    """DESIGN 4: "a non-empty list hangs the new primary's first write"."""
    incarnation = await node.first_start()
    client = await node.connect()
    await client.execute("ALTER SYSTEM SET synchronous_commit = 'local'")
    await client.close()
    await node.act(actions.Stop(10_000, incarnation))
    await node.act(actions.StartPrimary())
    assert (node.settings.data_dir / "postgresql.auto.conf").read_text() == ""


async def test_a_start_that_fails_says_why(node: NodeUnderTest) -> None:
    await node.act(actions.InitDb())
    control = node.settings.data_dir / "global" / "pg_control"
    control.write_bytes(bytes(control.stat().st_size))
    result = await node.act(actions.StartPrimary(), ok=False)
    assert result.reason == Reason.FAILED
    assert "pg_control" in result.sentence or "incompatible" in result.sentence, result.sentence
    assert (await node.report()).postmaster is Postmaster.EXITED


async def test_an_occupied_port_is_named(node: NodeUnderTest) -> None:
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", node.settings.postgres_port)
    async with server:
        await node.act(actions.InitDb())
        result = await node.act(actions.StartPrimary(), ok=False)
    assert "could not create any TCP/IP sockets" in result.sentence, result.sentence


async def test_a_directory_that_vanishes_is_noticed(node: NodeUnderTest) -> None:
    await node.act(actions.InitDb())
    assert (await node.report()).data is DataDirectory.PRESENT
    (node.settings.data_dir / "global" / "pg_control").unlink()
    await node.wait(lambda report: report.data is DataDirectory.HALF_BUILT, deadline_s=5)


async def test_a_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    async with one_node(tmp_path) as node:
        node.settings.data_dir.mkdir(mode=0o700)
        (node.settings.data_dir / "PG_VERSION").write_text("12\n")
        (node.settings.data_dir / "precious").write_text("x")
        await node.wait(lambda report: report.data is DataDirectory.FOREIGN, deadline_s=5)
        for op in (actions.InitDb(), actions.StartPrimary(), actions.Rebuild("b", "locum_a", "n")):
            status, answer = await node.send(await node.action(op))
            assert (status, answer["refused"]) == (409, Refusal.WRONG_STATE)
        assert (node.settings.data_dir / "precious").read_text() == "x"


async def test_a_cluster_with_other_wal_segments_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, ("a",))["a"]
    settings.data_dir.parent.mkdir(parents=True)
    initdb = find_installation(None).command("initdb", "-D", str(settings.data_dir), "-N", "--wal-segsize=16")
    await asyncio.to_thread(subprocess.run, initdb, check=True, capture_output=True, timeout=60)
    with pytest.raises(ForeignData, match="WAL segments of 16 MB"):
        async with running_agent(settings):
            pass


async def test_a_probe_whose_connection_was_ended_is_no_fault(node: NodeUnderTest) -> None:
    await node.first_start()
    client = await node.connect()
    ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'locum_probe'"
    assert await client.fetchval(ended) == 1
    await client.close()
    for _ in range(3):
        report = await node.report()
        assert report.sql is not None and report.sql.ok and report.faults == (), report.sql


async def test_a_postmaster_that_dies_under_the_probe_leaves_no_fault_to_the_next(node: NodeUnderTest) -> None:
    incarnation = await node.first_start()
    for _ in range(3):
        probing = asyncio.ensure_future(node.running.sql.refresh())
        os.kill(pid_of(incarnation), signal.SIGKILL)
        await probing
        report = await node.wait(lambda report: report.postmaster is Postmaster.EXITED)
        assert report.sql is None and report.faults == ()
        await node.wait(lambda _: not processes(node), deadline_s=5)
        await node.act(actions.StartPrimary())
        report = await node.report()
        assert report.faults == ()
        incarnation = report.incarnation or ""
