"""Promotion when something holds replay up, and its time against a bare pg_promote (DESIGN section 6)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import asyncpg
import pytest

from replication import actions
from replication.history import read_timeline
from replication.promotion import Steps, promote
from tests.integration.replication.load import insert
from tests.nodes import POSTGRES_15, Pair, two_nodes

needs_15 = pytest.mark.skipif(not (POSTGRES_15 / "postgres").exists(), reason="no system PostgreSQL 15")
versions = pytest.mark.parametrize(
    "bindir", [None, pytest.param(POSTGRES_15, marks=[needs_15, pytest.mark.postgres15])]
)


@versions
async def test_a_paused_replay_does_not_hold_a_promotion_up(tmp_path: Path, bindir: Path | None) -> None:
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await pair.stream()
        connection = await pair.b.connect()
        await connection.execute("SELECT pg_wal_replay_pause()")
        await insert(pair.a, 3_000)
        await received_all(pair)
        rows = await count(await pair.a.connect())
        took_s = await promoted_in(pair)
        assert took_s < 2
        assert await count(await pair.b.connect()) == rows


@versions
async def test_a_query_that_holds_replay_up_is_ended_and_the_old_primary_can_acknowledge_no_more(
    tmp_path: Path, bindir: Path | None
) -> None:
    """DESIGN 6: "a replay that is blocked by one query lets the old primary acknowledge on and on"."""
    settings = {"max_standby_streaming_delay": "-1"}
    async with two_nodes(tmp_path, bindir=bindir, postgres=settings) as pair:
        await pair.stream()
        a = await pair.a.report()
        await pair.a.act(actions.SetNames(("b_g1",), a.incarnation or ""))
        idle = await pair.b.connect("locum_server")
        assert await idle.fetchval("SHOW locum.term") == "1"
        reader = await pair.b.connect()
        await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await reader.execute("SELECT count(*) FROM appointment")
        writer = await pair.a.connect()
        await writer.execute("ALTER TABLE appointment ADD COLUMN extra text")
        await pair.b.wait(lambda report: (report.receive_lsn or 0) > (report.replay_lsn or 0))
        took_s = await promoted_in(pair)
        assert took_s < 2
        waiting = asyncio.ensure_future(writer.execute("INSERT INTO appointment (id) VALUES (7)"))
        await pair.a.wait(lambda report: report.commit_waiting_ms is not None and not report.walsenders)
        assert not waiting.done()
        client = await pair.b.connect("locum_server")
        assert await client.fetchval("SELECT count(*) FROM appointment WHERE extra IS NULL AND id = 7") == 0
        await client.execute("INSERT INTO appointment (id) VALUES (8)")
        # a session that does nothing holds nothing up: it goes on, in the new term, and may write
        assert await idle.fetchval("SHOW locum.term") == "2"
        await idle.execute("INSERT INTO appointment (id) VALUES (9)")
        writer.terminate()
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await waiting
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await reader.execute("SELECT 1")


async def test_the_switch_is_told_where_the_history_file_has_it(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        await insert(pair.a, 100)
        await pair.a.act(actions.Fence())
        await pair.b.act(actions.Promote(slots=("locum_a",)), term=2)
        report = await pair.b.report()
        history = read_timeline(pair.b.settings.data_dir / "pg_wal", 2)
        assert history.forks == ((1, report.promoted_lsn),)
        assert (await promote(pair.b.running.node, actions.Promote(), Steps(_nothing, _no_reload, _nothing)))[0] == 2


async def test_a_promotion_takes_hardly_longer_than_the_bare_one(tmp_path: Path) -> None:
    """DESIGN 6: "with them the first write came after 58 ms"."""
    bare: list[float] = []
    ours: list[float] = []
    for number in range(2):
        async with two_nodes(tmp_path / f"bare{number}") as pair:
            await pair.stream()
            await pair.a.act(actions.Fence())
            await pair.b.wait(lambda report: report.receiver is None)
            connection = await pair.b.running.node.connect()
            await connection.fetchval("SELECT pg_is_in_recovery()")
            began = time.monotonic()
            await connection.execute("SELECT pg_promote(wait => false)")
            while await connection.fetchval("SELECT pg_is_in_recovery()"):
                await asyncio.sleep(0.002)
            bare.append((time.monotonic() - began) * 1000)
            connection.terminate()
        async with two_nodes(tmp_path / f"ours{number}") as pair:
            await pair.stream()
            await pair.a.act(actions.Fence())
            await pair.b.wait(lambda report: report.receiver is None)
            ours.append(await promoted_in(pair) * 1000)
    print(f"bare {sorted(round(ms) for ms in bare)} ms, ours over HTTP {sorted(round(ms) for ms in ours)} ms")
    assert min(ours) < min(bare) + 500


async def promoted_in(pair: Pair) -> float:
    """Seconds from the order to the moment at which b is seen to accept writes."""
    action = await pair.b.action(actions.Promote(), term=2)
    began = time.monotonic()
    status, answer = await pair.b.send(action)
    assert status == 202, answer
    await pair.b.wait(lambda report: report.in_recovery is False)
    took_s = time.monotonic() - began
    await pair.b.wait(lambda report: report.doing is None)
    print(f"promoted in {took_s * 1000:.0f} ms")
    return took_s


async def received_all(pair: Pair) -> None:
    wanted = (await pair.a.report()).insert_lsn or 0
    await pair.b.wait(lambda report: (report.receive_lsn or 0) >= wanted)


async def count(connection: asyncpg.Connection) -> int:
    rows = int(await connection.fetchval("SELECT count(*) FROM appointment"))
    await connection.close()
    return rows


async def _nothing() -> None:
    return None


def _no_reload() -> None:
    return None
