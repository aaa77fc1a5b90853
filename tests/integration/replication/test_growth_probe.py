"""The proof that commits wait for the standby, true when they do and false when `sync_state` lies (DESIGN section 4)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from replication import actions
from replication.model import Growth
from replication.proc import children_titled, parse_process_id
from tests.integration.replication.load import writing
from tests.nodes import POSTGRES_15, NodeUnderTest, Pair, two_nodes

needs_15 = pytest.mark.skipif(not (POSTGRES_15 / "postgres").exists(), reason="no system PostgreSQL 15")
versions = pytest.mark.parametrize(
    "bindir", [None, pytest.param(POSTGRES_15, marks=[needs_15, pytest.mark.postgres15])]
)


@versions
async def test_growth_is_proved_under_load_each_time(tmp_path: Path, bindir: Path | None) -> None:
    """DESIGN 4: "30 of 30 under load"."""
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await pair.stream()
        async with writing(pair.a):
            for _ in range(3):
                growth = await grow(pair)
                assert growth.proved, growth
        report = await pair.a.report()
        sender = next(sender for sender in report.walsenders if sender.name == "b_g1")
        assert (growth.walsender_pid, growth.walsender_backend_start) == (sender.pid, sender.backend_start)
        assert (growth.insert_lsn or 0) <= (sender.flush_lsn or 0)
        assert growth.revision == report.revision
        # What the agent has seen last may be from the middle of the proof; replay was resumed before that ended.
        connection = await pair.b.connect()
        assert not await connection.fetchval("SELECT pg_is_wal_replay_paused()")
        await connection.close()
        await pair.b.wait(lambda standby: not (standby.replay_paused or standby.replay_paused_by_probe))


@versions
async def test_sync_state_lies_while_the_checkpointer_stands_and_the_proof_does_not(
    tmp_path: Path, bindir: Path | None
) -> None:
    """DESIGN 4: "`sync_state` proves nothing while the checkpointer is stopped"."""
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await pair.stream()
        with stopped(pair.a, "checkpointer"):
            growth = await grow(pair)
            report = await pair.a.report()
            assert [sender.sync_state for sender in report.walsenders] == ["sync"]
            assert not growth.proved
            assert "came back" in growth.sentence
            assert not (await pair.b.report()).replay_paused
        assert (await grow(pair)).proved


async def test_a_standby_that_does_not_stream_is_not_proved(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        with stopped(pair.b, "walreceiver"):
            growth = await grow(pair)
        assert not growth.proved
        await pair.b.act(actions.Fence())
        growth = await grow(pair)
        assert not growth.proved
        assert "synchronous" in growth.sentence


async def test_another_start_of_the_standby_is_not_the_one_that_was_asked_about(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        growth = await grow(pair, standby_incarnation="1:1")
        assert not growth.proved
        assert "anew" in growth.sentence


async def test_an_agent_that_is_gone_leaves_no_commit_waiting_for_ever(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        b = await pair.b.report()
        await pair.b.end_agent()
        growth = await grow(pair, standby_incarnation=b.incarnation or "")
        assert not growth.proved
        async with asyncio.timeout(5):
            connection = await pair.a.connect()
            await connection.execute("INSERT INTO appointment VALUES (1, 'x')")
            await connection.close()


async def grow(pair: Pair, *, standby_incarnation: str | None = None) -> Growth:
    if standby_incarnation is None:
        standby_incarnation = (await pair.b.report()).incarnation or ""
    incarnation = (await pair.a.report()).incarnation or ""
    await pair.a.act(actions.Grow("b_g1", "b", incarnation, standby_incarnation))
    growth = (await pair.a.report()).growth
    assert growth is not None
    print(growth.sentence)
    return growth


@contextmanager
def stopped(node: NodeUnderTest, word: str) -> Iterator[None]:
    """One process of the node stands still."""
    process = parse_process_id(node.running.supervisor.incarnation or "")
    (pid,) = children_titled(process, word)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
