"""Rebuild by base backup, what a broken one leaves behind, and the certificate that follows it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from replication import actions
from replication.model import DataDirectory, NodeReport, Reason
from replication.proc import all_stats
from tests.integration.replication.load import insert
from tests.nodes import POSTGRES_15, NodeUnderTest, Pair, two_nodes

PAGE_BYTES = 8192
REBUILT_S = 3.0
"""Several times as long as so small a node takes to be rebuilt: what has not begun then, waits."""
UNUSABLE = (DataDirectory.EMPTY, DataDirectory.HALF_BUILT)
"""What a rebuild that did not end leaves behind: pg_basebackup removes its own files when it can."""

needs_15 = pytest.mark.skipif(not (POSTGRES_15 / "postgres").exists(), reason="no system PostgreSQL 15")
versions = pytest.mark.parametrize(
    "bindir", [None, pytest.param(POSTGRES_15, marks=[needs_15, pytest.mark.postgres15])]
)


@versions
async def test_a_rebuild_gives_a_whole_node_that_is_certified(tmp_path: Path, bindir: Path | None) -> None:
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await pair.a.first_start()
        await insert(pair.a, 5_000)
        await pair.a.act(actions.EnsureSlot("locum_b"))
        data_dir = pair.b.settings.data_dir
        data_dir.mkdir(mode=0o700)
        inode = data_dir.stat().st_ino
        revision = (await pair.b.action(rebuild("n1"))).revision
        await pair.b.act(rebuild("n1"))
        report = await pair.b.report()
        assert (report.data, report.rebuilt_revision) == (DataDirectory.PRESENT, revision)
        assert report.system_identifier == (await pair.a.report()).system_identifier
        assert data_dir.stat().st_ino == inode
        assert (data_dir / "postgresql.auto.conf").read_text() == ""
        assert not (data_dir / "standby.signal").exists()
        assert list((data_dir / "pg_replslot").iterdir()) == []
        await follow(pair)
        a = await pair.a.report()
        await pair.b.act(actions.Certify(peer_redo_lsn=a.redo_lsn or 0))
        certificate = (await pair.b.report()).certificate
        assert certificate is not None
        assert certificate.node == "b"
        assert certificate.pages > 5_000 * 200 // PAGE_BYTES
        assert 0 < certificate.checked_through_lsn <= (a.redo_lsn or 0)
        assert certificate.timeline == 1


async def test_a_rebuild_waits_while_the_files_are_looked_at_for_what_a_process_died_of(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.a.first_start()
        await pair.a.act(actions.EnsureSlot("locum_b"))
        looked_back = pair.b.running.memory.looked_back
        looked_back.clear()
        status, _ = await pair.b.send(await pair.b.action(rebuild("n1")))
        assert status == 202
        seen, until_s = [], time.monotonic() + REBUILT_S
        while time.monotonic() < until_s:
            seen.append(await pair.b.report())
        assert {(one.doing.op if one.doing is not None else None, one.data) for one in seen} == {
            ("rebuild", DataDirectory.EMPTY)
        }
        looked_back.set()
        await pair.b.wait(lambda report: report.data is DataDirectory.PRESENT)


@versions
async def test_a_damaged_index_and_a_damaged_table_fail_the_certificate(tmp_path: Path, bindir: Path | None) -> None:
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await pair.stream()
        await insert(pair.a, 5_000)
        await pair.a.act(actions.Checkpoint((await pair.a.report()).incarnation or ""))
        await replayed_all(pair)
        connection = await pair.b.connect()
        await connection.execute("CHECKPOINT")  # else replay puts whole pages back
        index = await connection.fetchval("SELECT pg_relation_filepath('appointment_pkey')")
        table = await connection.fetchval("SELECT pg_relation_filepath('appointment')")
        await connection.close()
        await pair.b.act(actions.Stop(10_000, (await pair.b.report()).incarnation or ""))
        whole = damage(pair.b, index)
        await follow(pair, "b_g2")
        failed = await pair.b.act(actions.Certify(peer_redo_lsn=1), ok=False)
        assert failed.reason == Reason.FAILED
        assert "appointment_pkey" in failed.sentence
        assert (await pair.b.report()).certificate is None
        await pair.b.act(actions.Stop(10_000, (await pair.b.report()).incarnation or ""))
        (pair.b.settings.data_dir / index).write_bytes(whole)
        damage(pair.b, table)
        await follow(pair, "b_g3")
        failed = await pair.b.act(actions.Certify(peer_redo_lsn=1), ok=False)
        assert failed.reason == Reason.FAILED
        assert "appointment" in failed.sentence


async def test_a_damaged_page_of_the_source_fails_the_rebuild_and_half_a_node_cannot_start(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.a.first_start()
        await insert(pair.a, 5_000)
        await pair.a.act(actions.EnsureSlot("locum_b"))
        connection = await pair.a.connect()
        table = await connection.fetchval("SELECT pg_relation_filepath('appointment')")
        await connection.execute("CHECKPOINT")
        await connection.close()
        whole = damage(pair.a, table)
        failed = await pair.b.act(rebuild("n1"), ok=False)
        assert failed.reason == Reason.FAILED
        assert "checksum" in failed.sentence
        assert (await pair.b.report()).data in UNUSABLE
        status, answer = await pair.b.send(await pair.b.action(actions.StartPrimary()))
        assert (status, answer["refused"]) == (409, "wrong_state")
        (pair.a.settings.data_dir / table).write_bytes(whole)
        await pair.b.act(rebuild("n2"))
        assert (await pair.b.report()).data is DataDirectory.PRESENT


async def test_a_fence_ends_a_rebuild_with_all_its_processes(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.a.first_start()
        await pair.a.act(actions.EnsureSlot("locum_b"))
        action = await pair.b.action(actions.Rebuild(source="a", slot="locum_b", nonce="n1", fast_checkpoint=False))
        connection = await pair.a.connect()
        await insert(pair.a, 20_000, width=800)  # a spread checkpoint of this takes long
        assert (await pair.b.send(action))[0] == 202
        await pair.a.wait(lambda report: any(sender.name == "rebuild_b_n1" for sender in report.walsenders))
        assert tools(pair.b)
        await pair.b.act(actions.Fence())
        assert (await pair.b.report()).data in UNUSABLE
        assert not tools(pair.b)
        await connection.close()
        await pair.b.act(rebuild("n2"))
        assert (await pair.b.report()).data is DataDirectory.PRESENT


async def test_a_rebuild_from_an_unknown_or_silent_source_or_without_a_slot_fails_with_a_reason(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.a.first_start()
        failed = await pair.b.act(actions.Rebuild(source="z", slot="s", nonce="n1"), ok=False)
        assert failed.reason == Reason.CANNOT_ASK
        failed = await pair.b.act(rebuild("n2"), ok=False)
        assert failed.reason == Reason.FAILED
        assert "locum_b" in failed.sentence
        await pair.a.act(actions.Fence())
        failed = await pair.b.act(rebuild("n3"), ok=False)
        assert failed.reason == Reason.FAILED
        assert (await pair.b.report()).data in UNUSABLE


def rebuild(nonce: str) -> actions.Rebuild:
    return actions.Rebuild(source="a", slot="locum_b", nonce=nonce, fast_checkpoint=True)


async def follow(pair: Pair, name: str = "b_g1") -> NodeReport:
    await pair.b.act(actions.StartStandby(name=name, upstream="a", slot="locum_b"))
    return await pair.b.wait(lambda report: report.receiver is not None and report.receiver.status == "streaming")


async def replayed_all(pair: Pair) -> None:
    wanted = (await pair.a.report()).insert_lsn or 0
    await pair.b.wait(lambda report: (report.replay_lsn or 0) >= wanted)


def damage(node: NodeUnderTest, path: str) -> bytes:
    """Overwrite the middle of the relation's second page; what was in the file before."""
    file = node.settings.data_dir / path
    whole = file.read_bytes()
    changed = bytearray(whole)
    changed[PAGE_BYTES + 5_000 : PAGE_BYTES + 5_400] = os.urandom(400)
    file.write_bytes(changed)
    return whole


def tools(node: NodeUnderTest) -> set[int]:
    """Live pg_basebackup processes that write to this node."""
    found = set()
    for pid, stat in all_stats().items():
        try:
            words = Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"--pgdata={node.settings.data_dir}".encode() in words and not stat.dead:
            found.add(pid)
    return found
