"""The node lease: who serves on without the controller, and who must not (DESIGN section 4, reads and leases)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from replication import actions
from replication.actions import LeaseRenewal
from replication.client import AgentClient
from replication.model import NodeReport, Postmaster
from replication.wire.errors import WireError
from tests.nodes import Pair, two_nodes

TTL_MS = 800


@asynccontextmanager
async def primary_that_waits(tmp_path: Path) -> AsyncIterator[Pair]:
    """a is open and waits for b, which streams; no controller is there."""
    async with two_nodes(tmp_path, lease_ttl_ms=TTL_MS) as pair:
        await pair.stream()
        incarnation = (await pair.a.report()).incarnation or ""
        await pair.a.act(actions.SetNames(("b_g1",), incarnation))
        yield pair


def client(pair: Pair) -> AgentClient:
    return AgentClient(pair.a.session, pair.a.url, pair.a.token)


async def renewed(pair: Pair) -> NodeReport:
    """What the leading controller does at every interval."""
    report = await pair.a.report()
    await client(pair).renew_lease(LeaseRenewal(1, report.boot_id, report.clock_ms))
    return report


async def test_without_the_controller_it_serves_while_the_standby_confirms(tmp_path: Path) -> None:
    """DESIGN 4: "a synchronous heartbeat commit of its agent"."""
    async with primary_that_waits(tmp_path) as pair:
        report = await pair.a.wait(lambda report: (report.lease_expires_in_ms or 0) < -2 * TTL_MS, deadline_s=10)
        assert report.postmaster is Postmaster.RUNNING and not report.fenced
        writer = await pair.a.connect()
        await writer.execute("INSERT INTO appointment (id) VALUES (1)")
        await writer.close()


async def test_without_the_controller_and_the_standby_it_fences_itself_within_the_lease(tmp_path: Path) -> None:
    async with primary_that_waits(tmp_path) as pair:
        client = await pair.a.connect()
        await pair.b.act(actions.Fence())
        report = await pair.a.wait(lambda report: report.postmaster is Postmaster.EXITED, deadline_s=2 + TTL_MS / 1000)
        assert "fenced itself" in (report.exit_sentence or "") and "b_g1" in (report.exit_sentence or "")
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await client.fetchval("SELECT 1")
        await pair.a.wait(lambda report: report.fenced, deadline_s=2)


async def test_a_primary_that_waits_for_nobody_serves_on_alone(tmp_path: Path) -> None:
    async with two_nodes(tmp_path, lease_ttl_ms=TTL_MS) as pair:
        await pair.stream()
        await pair.b.act(actions.Fence())
        report = await pair.a.wait(lambda report: (report.lease_expires_in_ms or 0) < -TTL_MS, deadline_s=10)
        assert report.names == () and report.postmaster is Postmaster.RUNNING


async def test_the_controllers_word_keeps_it_up_and_a_late_word_does_not(tmp_path: Path) -> None:
    async with primary_that_waits(tmp_path) as pair:
        first = await renewed(pair)
        await pair.b.act(actions.Fence())
        while (await renewed(pair)).clock_ms < first.clock_ms + 3 * TTL_MS:
            await asyncio.sleep(0.05)
        assert (await pair.a.report()).postmaster is Postmaster.RUNNING
        late = LeaseRenewal(1, first.boot_id, first.clock_ms)

        async def fenced() -> bool:
            await client(pair).renew_lease(late)
            return (await pair.a.report()).postmaster is Postmaster.EXITED

        async with asyncio.timeout(2 + TTL_MS / 1000):
            while not await fenced():
                await asyncio.sleep(0.02)


async def test_the_word_of_another_boot_or_of_an_earlier_term_is_refused(tmp_path: Path) -> None:
    async with primary_that_waits(tmp_path) as pair:
        report = await pair.a.report()
        for renewal in (LeaseRenewal(1, "another", report.clock_ms), LeaseRenewal(0, report.boot_id, report.clock_ms)):
            with pytest.raises(WireError, match="409"):
                await client(pair).renew_lease(renewal)
        stranger = AgentClient(pair.a.session, pair.a.url, "wrong")
        with pytest.raises(WireError, match="401"):
            await stranger.renew_lease(LeaseRenewal(1, report.boot_id, report.clock_ms))
