"""What proves that the write barrier is alive, and what only looks like it (DESIGN section 4, reads, leases)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from replication.model import NodeReport, Postmaster
from replication.settings import Peer
from replication.settings_file import FIXED
from tests.integration.traps.commits import set_names
from tests.integration.traps.tcp_proxy import TcpProxy, tcp_proxy
from tests.nodes import HOST, Pair, two_nodes

TTL_MS = 800
FENCED_S_MAX = 6.0
"""Far above the lease, for two busy cores, and far below the time for which a frozen path is shown as streaming."""


@asynccontextmanager
async def behind_a_proxy(
    root: Path, bindir: Path | None = None, *, lease_ttl_ms: int
) -> AsyncIterator[tuple[Pair, TcpProxy]]:
    """a is open and waits for b, which streams through a proxy; no controller is there."""
    async with two_nodes(root, bindir=bindir, lease_ttl_ms=lease_ttl_ms) as pair:
        async with tcp_proxy(pair.a.settings.postgres_port) as proxy:
            await pair.b.end_agent()
            there = Peer(pair.a.url, HOST, proxy.port)
            pair.b.settings = msgspec.structs.replace(pair.b.settings, peers={"a": there})
            await pair.b.start_agent()
            await pair.stream()
            await set_names(pair.a, "b_g1")
            yield pair, proxy


@pytest.mark.both_versions
async def test_a_primary_whose_standby_is_behind_a_frozen_path_fences_itself_though_it_is_shown_as_streaming(
    tmp_path: Path, bindir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN 4: ""Still streaming" is no proof: over a frozen path it was shown for more than 9.7 s"."""
    monkeypatch.setitem(FIXED, "wal_sender_timeout", "60s")
    async with behind_a_proxy(tmp_path, bindir, lease_ttl_ms=TTL_MS) as (pair, proxy):
        await pair.a.wait(lambda report: (report.lease_expires_in_ms or 0) < 0)
        proxy.freeze()
        last = await pair.a.report()

        def exited(report: NodeReport) -> bool:
            nonlocal last
            last = report if report.walsenders else last
            return report.postmaster is Postmaster.EXITED

        report = await pair.a.wait(exited, deadline_s=FENCED_S_MAX)
        assert "fenced itself" in (report.exit_sentence or "")
        assert [(sender.name, sender.state) for sender in last.walsenders] == [("b_g1", "streaming")]
        assert (last.commit_waiting_ms or 0) > 0, "the trap is not set: it was still shown while a commit waited"


async def test_a_frozen_path_is_noticed_by_both_sides_within_seconds(tmp_path: Path) -> None:
    """DESIGN 4: "Set `wal_sender_timeout`, `wal_receiver_timeout` to 2 s", since "over a frozen path it was shown for
    more than 9.7 s", and ""Still streaming" is no proof"."""
    async with behind_a_proxy(tmp_path, lease_ttl_ms=600_000) as (pair, proxy):
        proxy.freeze()
        await pair.a.wait(lambda report: not report.walsenders, deadline_s=FENCED_S_MAX)
        await pair.b.wait(lambda report: report.receiver is None, deadline_s=FENCED_S_MAX)


async def test_a_lowered_synchronous_commit_does_not_forge_the_heartbeats_proof(tmp_path: Path) -> None:
    """DESIGN 4: "`synchronous_commit` is a user setting that no privilege protects": with it lowered for the agent's own
    role the heartbeat would come back from a primary that waits in vain, and no lease would ever run out."""
    async with two_nodes(tmp_path, lease_ttl_ms=TTL_MS) as pair:
        await pair.stream()
        client = await pair.a.connect()
        await client.execute("ALTER ROLE postgres SET synchronous_commit = 'local'")
        await client.execute("ALTER DATABASE postgres SET synchronous_commit = 'off'")
        client.terminate()
        await set_names(pair.a, "ghost")
        await pair.a.end_agent()
        await pair.a.start_agent()
        report = await pair.a.wait(lambda report: report.postmaster is Postmaster.EXITED, deadline_s=FENCED_S_MAX)
        assert "fenced itself" in (report.exit_sentence or "")
