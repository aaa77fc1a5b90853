"""Is a stopped primary's WAL whole? Compared with an eligible peer's, before any start (DESIGN section 4)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from replication import actions
from replication.closed_start import check_closed
from replication.errors import ActionFailed
from replication.history import Timeline
from replication.model import WAL_SEGMENT_BYTES, Comparison, Reason, Stage, WalComparison
from replication.wal_end import read_stopped_wal
from replication.wal_files import find_segment, segment_start
from tests.integration.replication.load import insert, writing
from tests.nodes import POSTGRES_15, NodeUnderTest, Pair, one_node, two_nodes

needs_15 = pytest.mark.skipif(not (POSTGRES_15 / "postgres").exists(), reason="no system PostgreSQL 15")
versions = pytest.mark.parametrize(
    "bindir", [None, pytest.param(POSTGRES_15, marks=[needs_15, pytest.mark.postgres15])]
)


@versions
async def test_both_killed_under_load_are_equal_each_time(tmp_path: Path, bindir: Path | None) -> None:
    """DESIGN 4: "62 of 62 kills of both nodes equal"."""
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await pair.stream()
        for generation in (2, 3):
            async with writing(pair.a):
                await insert(pair.a, 5_000)
                await kill_both(pair)
            comparison = await compare(pair)
            assert comparison.outcome is Comparison.EQUAL, comparison
            assert (comparison.end_lsn or 0) >= (comparison.peer_end_lsn or 0) > 0
            assert comparison.peer_incarnation == (await pair.b.report()).incarnation
            await restart_both(pair, f"b_g{generation}")


async def test_a_zeroed_short_or_absent_tail_is_wal_lost_and_the_same_bytes_back_are_equal(tmp_path: Path) -> None:
    """DESIGN 4: "Zeroed tails: 30 of 30 caught"."""
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        await insert(pair.a, 5_000)
        await all_received(pair)
        await kill_both(pair)
        assert (await compare(pair)).outcome is Comparison.EQUAL
        end = (await read_stopped_wal(pair.a.running.node)).end_lsn
        segment = segment_holding(pair.a, end)
        whole = segment.read_bytes()
        offset = end % WAL_SEGMENT_BYTES
        assert offset > 20_000
        segment.write_bytes(whole[: offset - 10_000] + bytes(WAL_SEGMENT_BYTES - offset + 10_000))
        lost = await compare(pair)
        assert lost.outcome is Comparison.WAL_LOST
        assert (lost.end_lsn or 0) < (lost.peer_end_lsn or 0)
        flipped = bytearray(whole)
        flipped[offset - 10_000] ^= 1
        segment.write_bytes(flipped)
        assert (await compare(pair)).outcome is Comparison.WAL_LOST
        segment.write_bytes(whole[: offset - 10_000])
        assert (await compare(pair)).outcome is Comparison.WAL_LOST
        segment.unlink()
        assert (await compare(pair)).outcome is Comparison.WAL_LOST
        segment.write_bytes(whole)
        assert (await compare(pair)).outcome is Comparison.EQUAL


async def test_wal_that_was_overwritten_by_another_start_is_lost_although_it_is_longer(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        await insert(pair.a, 3_000)
        await all_received(pair)
        await kill_both(pair)
        cut_tail(pair.a, (await read_stopped_wal(pair.a.running.node)).end_lsn, 20_000)
        await open_alone(pair.a)
        await insert(pair.a, 5_000)
        await pair.a.act(actions.Fence())
        comparison = await compare(pair)
        assert comparison.outcome is Comparison.WAL_LOST
        assert (comparison.end_lsn or 0) > (comparison.peer_end_lsn or 0)
        assert "differs" in comparison.sentence


async def test_a_live_standby_is_compared_and_one_that_cannot_tell_is_no_proof(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        async with writing(pair.a):
            await insert(pair.a, 2_000)
            await pair.a.act(actions.Fence())
        connection = await pair.b.connect()
        await connection.execute("SELECT pg_wal_replay_pause()")
        assert (await compare(pair)).outcome is Comparison.UNREADABLE
        await connection.execute("SELECT pg_wal_replay_resume()")
        await until_equal(pair)
        await pair.b.end_agent()
        assert (await compare(pair)).outcome is Comparison.PEER_UNREACHABLE


async def test_a_standby_that_lies_behind_is_equal_as_far_as_it_goes(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        await pair.b.act(actions.Fence())
        await insert(pair.a, 2_000)
        await pair.a.act(actions.Fence())
        comparison = await compare(pair)
        assert comparison.outcome is Comparison.EQUAL
        assert (comparison.end_lsn or 0) > (comparison.peer_end_lsn or 0)


async def test_an_unreadable_control_file_of_its_own_is_wal_lost(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        await kill_both(pair)
        control = pair.a.settings.data_dir / "global/pg_control"
        damaged = bytearray(control.read_bytes())
        damaged[40] ^= 0xFF
        control.write_bytes(damaged)
        assert (await compare(pair)).outcome is Comparison.WAL_LOST


async def test_a_closed_primary_is_seen_closed_and_an_open_one_is_not(tmp_path: Path) -> None:
    async with one_node(tmp_path) as node:
        incarnation = await node.first_start(stage=Stage.CLOSED)
        await check_closed(node.running.node)
        await node.act(actions.SetStage(Stage.OPEN, incarnation))
        with pytest.raises(ActionFailed) as failed:
            await check_closed(node.running.node)
        assert failed.value.reason is Reason.NOT_CLOSED
        await node.act(actions.Fence())
        with pytest.raises(ActionFailed) as failed:
            await check_closed(node.running.node)
        assert failed.value.reason is Reason.NOT_CLOSED


async def kill_both(pair: Pair) -> None:
    await asyncio.gather(pair.a.act(actions.Fence()), pair.b.act(actions.Fence()))


async def restart_both(pair: Pair, name: str) -> None:
    await pair.a.act(actions.StartPrimary())
    incarnation = (await pair.a.report()).incarnation or ""
    await pair.a.act(actions.SetStage(Stage.REPLICATING, incarnation))
    await pair.b.act(actions.StartStandby(name=name, upstream="a", slot="locum_b"))
    await pair.a.act(actions.SetStage(Stage.OPEN, incarnation))
    await pair.a.wait(lambda report: any(s.name == name and s.state == "streaming" for s in report.walsenders))


async def open_alone(node: NodeUnderTest) -> None:
    await node.act(actions.StartPrimary())
    await node.act(actions.SetStage(Stage.OPEN, (await node.report()).incarnation or ""))


async def compare(pair: Pair) -> WalComparison:
    await pair.a.act(actions.CompareWal("b"))
    comparison = (await pair.a.report()).comparison
    assert comparison is not None
    return comparison


async def until_equal(pair: Pair) -> None:
    """A live standby needs a moment until its replay stands."""
    async with asyncio.timeout(10):
        while (comparison := await compare(pair)).outcome is not Comparison.EQUAL:
            assert comparison.outcome is Comparison.UNREADABLE, comparison


async def all_received(pair: Pair) -> None:
    """The standby has flushed all that the primary had inserted by now."""
    wanted = (await pair.a.report()).insert_lsn or 0
    await pair.a.wait(lambda report: any((sender.flush_lsn or 0) >= wanted for sender in report.walsenders))


def segment_holding(node: NodeUnderTest, end_lsn: int) -> Path:
    """The file of timeline 1 that holds the last bytes before an LSN."""
    return find_segment(node.settings.data_dir / "pg_wal", Timeline(1), end_lsn - 1)


def cut_tail(node: NodeUnderTest, end_lsn: int, count: int) -> None:
    """Zero so many bytes before the end of the WAL, as a disk that lost its last writes."""
    position = end_lsn - count
    while position < end_lsn:
        stop = min(end_lsn, segment_start(position) + WAL_SEGMENT_BYTES)
        with segment_holding(node, stop).open("r+b") as file:
            file.seek(position % WAL_SEGMENT_BYTES)
            file.write(bytes(stop - position))
        position = stop
