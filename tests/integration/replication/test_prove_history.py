"""No node starts as a standby before its history is proved to be the primary's (DESIGN section 4)."""

from __future__ import annotations

from pathlib import Path

import pytest

from replication import actions
from replication.model import WAL_SEGMENT_BYTES, Reason, Stage
from replication.wal_end import read_stopped_wal
from replication.wal_files import segment_name
from tests.integration.replication.load import insert
from tests.integration.replication.test_compare_wal import all_received, cut_tail, open_alone
from tests.nodes import POSTGRES_15, Pair, two_nodes

needs_15 = pytest.mark.skipif(not (POSTGRES_15 / "postgres").exists(), reason="no system PostgreSQL 15")
versions = pytest.mark.parametrize(
    "bindir", [None, pytest.param(POSTGRES_15, marks=[needs_15, pytest.mark.postgres15])]
)


@versions
async def test_a_killed_or_stopped_standby_passes_behind_a_primary_that_went_on(
    tmp_path: Path, bindir: Path | None
) -> None:
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await pair.stream()
        await insert(pair.a, 2_000)
        await pair.b.act(actions.Fence())
        await insert(pair.a, 2_000)
        await follow(pair, "b_g2")
        await pair.b.act(actions.Stop(5_000, (await pair.b.report()).incarnation or ""))
        await follow(pair, "b_g3")


async def test_a_primary_that_left_in_order_follows_the_promoted_one(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        await insert(pair.a, 500)
        await pair.a.act(actions.Stop(5_000, (await pair.a.report()).incarnation or ""))
        await pair.b.act(actions.Promote(slots=("locum_a",)), term=2)
        await insert(pair.b, 500)
        await pair.a.act(actions.StartStandby(name="a_g2", upstream="b", slot="locum_a"), term=2)
        await pair.b.wait(lambda report: any(s.state == "streaming" for s in report.walsenders))


async def test_a_diverged_old_primary_is_refused_although_its_wal_ends_lower(tmp_path: Path) -> None:
    """DESIGN 4: "A diverged old primary, started as a standby, reported the end of its own old timeline"."""
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        await pair.b.act(actions.Fence())
        await insert(pair.a, 200)
        await pair.a.act(actions.Fence())
        await pair.b.act(actions.StartStandby(name="b_g2", upstream=None))
        await pair.b.act(actions.Promote(), term=2)
        await insert(pair.b, 5_000)
        own = await read_stopped_wal(pair.a.running.node)
        await pair.b.wait(lambda report: (report.flush_lsn or 0) > own.end_lsn)
        refused = await pair.a.act(actions.StartStandby(name="a_g2", upstream="b"), ok=False, term=2)
        assert refused.reason == Reason.HISTORY_DIFFERS, refused


async def test_two_nodes_that_both_made_timeline_2_are_not_taken_for_one_history(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        await pair.a.act(actions.Stop(5_000, (await pair.a.report()).incarnation or ""))
        await pair.b.act(actions.Promote(), term=2)
        await pair.b.act(actions.Fence())
        await pair.a.act(actions.StartStandby(name="a_g2", upstream=None), term=2)
        await pair.a.act(actions.Promote(), term=3)
        await insert(pair.a, 3_000)
        refused = await pair.b.act(actions.StartStandby(name="b_g3", upstream="a"), ok=False, term=3)
        assert refused.reason == Reason.HISTORY_DIFFERS, refused


async def test_a_primary_that_lost_its_tail_and_filled_the_gap_is_no_upstream(tmp_path: Path) -> None:
    """DESIGN 4: "A disk that lost the tail of WAL ends recovery without any error". Nothing else may write WAL meanwhile."""
    async with two_nodes(tmp_path, scrub_enabled=False) as pair:
        await pair.stream()
        await insert(pair.a, 3_000)
        await all_received(pair)
        await pair.b.act(actions.Fence())
        await pair.a.act(actions.Fence())
        cut_tail(pair.a, (await read_stopped_wal(pair.a.running.node)).end_lsn, 60_000)
        await open_alone(pair.a)
        refused = await pair.b.act(actions.StartStandby(name="b_g2", upstream="a"), ok=False)
        assert refused.reason == Reason.AHEAD, refused
        await insert(pair.a, 5_000)
        refused = await pair.b.act(actions.StartStandby(name="b_g3", upstream="a"), ok=False)
        assert refused.reason == Reason.HISTORY_DIFFERS, refused


async def test_recycled_wal_means_a_rebuild_and_a_silent_primary_means_waiting(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        await pair.b.act(actions.Fence())
        wal = pair.a.settings.data_dir / "pg_wal"
        own = await read_stopped_wal(pair.b.running.node)
        connection = await pair.a.connect()
        await connection.execute("SELECT pg_switch_wal()")
        await connection.close()
        await insert(pair.a, 10)
        last = segment_name(1, own.end_lsn // WAL_SEGMENT_BYTES)
        for path in wal.glob("0000*"):
            if path.name[8:24] <= last[8:]:
                path.unlink()
        refused = await pair.b.act(actions.StartStandby(name="b_g2", upstream="a"), ok=False)
        assert refused.reason == Reason.HISTORY_DIFFERS, refused
        assert "recycled" in refused.sentence
        await pair.a.act(actions.Fence())
        refused = await pair.b.act(actions.StartStandby(name="b_g3", upstream="a"), ok=False)
        assert refused.reason == Reason.CANNOT_ASK, refused
        await pair.a.end_agent()
        refused = await pair.b.act(actions.StartStandby(name="b_g4", upstream="a"), ok=False)
        assert refused.reason == Reason.CANNOT_ASK, refused


async def test_a_standby_is_no_upstream(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        await pair.a.act(actions.Fence())
        refused = await pair.a.act(actions.StartStandby(name="a_g2", upstream="b"), ok=False)
        assert refused.reason == Reason.CANNOT_ASK, refused


async def test_a_node_of_another_cluster_is_refused(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.a.first_start()
        incarnation = await pair.b.first_start(stage=Stage.CLOSED, fresh=True)
        await pair.b.act(actions.Stop(5_000, incarnation))
        refused = await pair.b.act(actions.StartStandby(name="b_g1", upstream="a"), ok=False)
        assert refused.reason == Reason.HISTORY_DIFFERS, refused


async def follow(pair: Pair, name: str) -> None:
    await pair.b.act(actions.StartStandby(name=name, upstream="a", slot="locum_b"))
    await pair.a.wait(lambda report: any(s.name == name and s.state == "streaming" for s in report.walsenders))
