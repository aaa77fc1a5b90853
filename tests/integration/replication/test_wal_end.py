"""Where the WAL of a real, stopped node ends: exactly where its own recovery finds the end."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path

import pytest

from replication import actions
from replication.client import WalEnd
from replication.model import WAL_SEGMENT_BYTES, Stage, parse_lsn
from replication.wal_end import read_stopped_wal
from replication.wal_files import segment_start
from tests.integration.replication.load import insert, writing
from tests.nodes import POSTGRES_15, NodeUnderTest, one_node, two_nodes

needs_15 = pytest.mark.skipif(not (POSTGRES_15 / "postgres").exists(), reason="no system PostgreSQL 15")
versions = pytest.mark.parametrize(
    "bindir", [None, pytest.param(POSTGRES_15, marks=[needs_15, pytest.mark.postgres15])]
)


def said(node: NodeUnderTest, pattern: str) -> list[int]:
    """LSNs in the node's own log, in order."""
    messages: list[str] = []
    for path in sorted(node.running.node.log_dir.glob("*.json")):
        messages += [json.loads(line)["message"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [parse_lsn(found[1]) for message in messages if (found := re.search(pattern, message))]


LSN = r"([0-9A-F]+/[0-9A-F]+)"
AT_A_RECORD = (
    r"^(?:invalid record length|invalid record offset|invalid resource manager ID \d+|there is no contrecord flag"
    r"|invalid contrecord length .*|record with incorrect prev-link \S+|incorrect resource manager data checksum in record)"
    rf" at {LSN}"
)
AT_A_PAGE = rf"^(?:invalid magic number|invalid info bits|unexpected pageaddr|out-of-sequence timeline ID) .* LSN {LSN}"
PAGE_BYTES = 8192


def check_end(node: NodeUnderTest, end_lsn: int) -> None:
    """What stopped recovery (src/backend/access/transam/xlogreader.c): the record at our end, or, when that record was cut
    off at the end of its page, the page that should have gone on with it."""
    if records := said(node, AT_A_RECORD):
        assert records[-1] == end_lsn
        return
    (page,) = said(node, AT_A_PAGE)[-1:]
    assert page - PAGE_BYTES <= end_lsn <= page


@versions
async def test_the_end_of_a_killed_node_is_where_its_recovery_ends(tmp_path: Path, bindir: Path | None) -> None:
    async with one_node(tmp_path, bindir=bindir) as node:
        await node.first_start()
        async with writing(node):
            await insert(node, 20_000, width=900)
            await node.act(actions.Fence())
        began = time.monotonic()
        wal = await read_stopped_wal(node.running.node)
        print(f"read {(wal.end_lsn - wal.control.redo_lsn) >> 20} MB in {time.monotonic() - began:.2f} s")
        assert wal.timeline == 1
        assert wal.end_lsn - wal.control.redo_lsn > WAL_SEGMENT_BYTES
        await node.act(actions.StartPrimary())
        assert said(node, r"redo done at ([0-9A-F]+/[0-9A-F]+)")[-1] == wal.last_record_lsn
        check_end(node, wal.end_lsn)


@versions
async def test_a_missing_next_segment_is_the_end_and_costs_no_wait(tmp_path: Path, bindir: Path | None) -> None:
    async with one_node(tmp_path, bindir=bindir) as node:
        await node.first_start(stage=Stage.CLOSED)
        connection = await node.running.node.connect()
        switched = parse_lsn(await connection.fetchval("SELECT pg_switch_wal()::text"))
        connection.terminate()
        await node.act(actions.Fence())
        boundary = segment_start(switched) + WAL_SEGMENT_BYTES
        pg_wal = node.settings.data_dir / "pg_wal"
        for path in pg_wal.glob("0000*"):
            if int(path.name[16:], 16) * WAL_SEGMENT_BYTES >= boundary:
                path.unlink()
        began = time.monotonic()
        wal = await read_stopped_wal(node.running.node)
        assert time.monotonic() - began < 4
        assert wal.end_lsn == boundary
        assert wal.last_record_lsn < switched


async def test_a_promoted_node_killed_before_its_next_checkpoint_is_read_across_the_fork(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        await insert(pair.a, 100)
        await pair.a.act(actions.Fence())
        await pair.b.act(actions.Promote(), term=2)
        fork = (await pair.b.report()).promoted_lsn or 0
        await insert(pair.b, 100)
        await pair.b.act(actions.Fence())
        wal = await read_stopped_wal(pair.b.running.node)
        assert wal.timeline == 2
        assert wal.end_lsn > fork
        assert wal.history.forks == ((1, fork),)
        former = await read_stopped_wal(pair.a.running.node)
        assert (former.timeline, former.end_lsn <= fork) == (1, True)


async def test_a_running_standby_tells_its_end_once_it_receives_nothing_and_has_replayed_all(tmp_path: Path) -> None:
    """DESIGN 4: "never its receive LSN"."""
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        assert await wal_end(pair.a) is None
        assert await wal_end(pair.b) is None
        async with writing(pair.a):
            await insert(pair.a, 1_000)
            await pair.a.act(actions.Fence())
        await pair.b.wait(lambda report: report.receiver is None)
        live = await until_told(pair.b)
        assert live.live
        await pair.b.act(actions.Fence())
        offline = await read_stopped_wal(pair.b.running.node)
        assert (live.end_lsn, live.timeline) == (offline.end_lsn, 1)


async def test_a_standby_whose_replay_is_held_up_cannot_tell(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        connection = await pair.b.connect()
        await connection.execute("SELECT pg_wal_replay_pause()")
        await insert(pair.a, 100)
        await pair.a.act(actions.Fence())
        await pair.b.wait(lambda report: report.receiver is None)
        assert await wal_end(pair.b) is None
        await connection.execute("SELECT pg_wal_replay_resume()")
        assert (await until_told(pair.b)).live


async def wal_end(node: NodeUnderTest) -> WalEnd | None:
    async with node.session.get(f"{node.url}/v1/wal/end") as answer:
        assert answer.status in (200, 409), await answer.text()
        return WalEnd(**await answer.json()) if answer.status == 200 else None


async def until_told(node: NodeUnderTest) -> WalEnd:
    async with asyncio.timeout(10):
        while (end := await wal_end(node)) is None:
            await asyncio.sleep(0.05)
        return end
