"""Who may confirm a commit: never a node that lacks it, whatever name and LSN it shows (DESIGN section 4, who may confirm)."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from replication import actions
from replication.control_file import read_control
from replication.errors import SQL_ERRORS
from replication.model import Postmaster, Reason
from tests.integration.replication.load import insert
from tests.integration.traps.commits import (
    grow,
    pid_of,
    set_names,
    standing_still,
    until_waiting,
    waiting_commits,
    write,
)
from tests.nodes import Pair, two_nodes

FIRST_WRITE_S_MAX = 5.0
"""Generous, for two busy cores: one that hangs never comes back."""


async def part_ways(pair: Pair) -> None:
    """a has 200 rows that b never got; both are down, a killed."""
    await pair.stream()
    await pair.b.act(actions.Fence())
    await insert(pair.a, 200)
    await pair.a.act(actions.Fence())


async def promote_b(pair: Pair) -> None:
    """b starts by itself and is promoted."""
    await pair.b.act(actions.StartStandby(name="b_g2", upstream=None), term=2)
    await pair.b.act(actions.Promote(slots=("locum_a",)), term=2)


@pytest.mark.both_versions
async def test_a_primary_that_was_stopped_and_wakes_up_acknowledges_nothing_new(tmp_path: Path, bindir: Path) -> None:
    """DESIGN 4: "Once it has stopped receiving the old primary's WAL, the old primary cannot acknowledge anything"."""
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await pair.stream()
        assert (await grow(pair)).proved
        acknowledged = await write(pair.a)
        client = await pair.a.connect()
        await client.execute("SELECT 1")
        with standing_still(pair.a):
            late = asyncio.ensure_future(client.execute("INSERT INTO appointment VALUES (7, 'late')"))
            await pair.b.act(actions.Promote(slots=("locum_a",)), term=2)
        await until_waiting(pair.a)
        assert (await asyncio.wait({late}, timeout=1.0))[1] == {late}
        b = await pair.b.connect()
        assert [row["id"] for row in await b.fetch("SELECT id FROM appointment")] == [acknowledged]
        for connection in (client, b):
            connection.terminate()
        with pytest.raises(SQL_ERRORS):
            await late


@pytest.mark.both_versions
async def test_a_diverged_old_primary_offered_as_a_standby_releases_no_commit(tmp_path: Path, bindir: Path) -> None:
    """DESIGN 4: "A diverged old primary, started as a standby, reported the end of its own old timeline"."""
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await part_ways(pair)
        await promote_b(pair)
        await set_names(pair.b, "a_g2")
        async with waiting_commits(pair.b, 10) as commits:
            action = await pair.a.action(actions.StartStandby(name="a_g2", upstream="b"), term=2)
            assert (await pair.a.send(action))[0] == 202
            report = await pair.a.wait(lambda report: report.doing is None)
            done, _ = await asyncio.wait(commits, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            assert not done, "a commit was confirmed by a node that does not have it"
            assert report.results[-1].reason == Reason.HISTORY_DIFFERS, report.results[-1]


async def test_a_base_backup_never_runs_under_a_name_that_counts(tmp_path: Path) -> None:
    """DESIGN 4: "A pg_basebackup under the standby's name released one" (a waiting commit)."""
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        await pair.b.act(actions.Fence())
        await set_names(pair.a, "b_g1")
        async with waiting_commits(pair.a) as commits:
            await pair.b.act(actions.Rebuild(source="a", slot="locum_b", nonce="n2", fast_checkpoint=True))
            done, _ = await asyncio.wait(commits, timeout=0.5)
            assert not done, "a base backup has confirmed a commit"


@pytest.mark.both_versions
async def test_an_old_primary_that_was_shut_down_in_order_is_no_standby_without_proof(
    tmp_path: Path, bindir: Path
) -> None:
    """DESIGN 4: ""shut down" in pg_control proves nothing: a cleanly stopped old primary served rows that were never
    acknowledged"."""
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await pair.stream()
        await set_names(pair.a, "b_g1")
        await pair.b.act(actions.Fence())
        async with waiting_commits(pair.a) as commits:
            os.kill(pid_of(pair.a), signal.SIGINT)  # by somebody who does not wait for the commits that wait
            await pair.a.wait(lambda report: report.postmaster is Postmaster.EXITED)
            await asyncio.wait(commits)
        assert (await read_control(pair.a.running.node)).state == "shut down"
        await promote_b(pair)
        await insert(pair.b, 200)
        refused = await pair.a.act(actions.StartStandby(name="a_g2", upstream="b"), ok=False, term=2)
        assert refused.reason == Reason.HISTORY_DIFFERS, refused
        assert (await pair.a.report()).postmaster is Postmaster.EXITED


async def test_inherited_synchronous_names_do_not_hang_the_first_write_of_a_new_primary(tmp_path: Path) -> None:
    """DESIGN 4: "Nothing through ALTER SYSTEM (an inherited `postgresql.auto.conf` is emptied)", since "a non-empty list
    hangs the new primary's first write"."""
    async with two_nodes(tmp_path) as pair:
        await pair.a.first_start()
        client = await pair.a.connect()
        await client.execute("ALTER SYSTEM SET synchronous_standby_names = 'ghost'")
        client.terminate()
        await pair.a.act(actions.EnsureSlot("locum_b"))
        await pair.b.act(actions.Rebuild(source="a", slot="locum_b", nonce="n1", fast_checkpoint=True))
        await pair.b.act(actions.StartStandby(name="b_g1", upstream="a", slot="locum_b"))
        await first_write_of_b(pair)


@pytest.mark.both_versions
async def test_a_list_of_names_that_was_left_in_a_standbys_state_is_not_in_its_file(
    tmp_path: Path, bindir: Path
) -> None:
    """DESIGN 4: "A standby's file always has an empty list of synchronous names, and promotion changes no synchronous
    setting (a non-empty list hangs the new primary's first write"."""
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await pair.stream()
        await pair.b.running.store.change(names=("a_g9",), names_revision=1)
        await pair.b.running.local.write_settings((await pair.b.report()).revision)
        await pair.b.running.local.reload()
        await first_write_of_b(pair)


async def first_write_of_b(pair: Pair) -> None:
    """b waits for nobody as a standby, and once it was promoted its first write comes back."""
    assert (await pair.b.report()).names == ()
    await pair.a.act(actions.Fence())
    await pair.b.act(actions.Promote(), term=2)
    async with asyncio.timeout(FIRST_WRITE_S_MAX):
        await write(pair.b)
