"""Commits that wait for a standby, and processes that stand still: what the traps have in common."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from replication import actions
from replication.model import Growth
from replication.proc import all_stats, children_titled, parse_process_id, servers_of
from tests.nodes import NodeUnderTest, Pair

_numbers = itertools.count(500_000_000)
_WAITERS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = 'locum'"


def pid_of(node: NodeUnderTest) -> int:
    """The postmaster, current or last."""
    return parse_process_id(node.running.supervisor.incarnation or "").pid


async def set_names(node: NodeUnderTest, *names: str) -> None:
    """Whom commits wait for from now on."""
    await node.act(actions.SetNames(names, (await node.report()).incarnation or ""))


async def grow(pair: Pair, name: str = "b_g1") -> Growth:
    """What the primary's agent found when it was asked to prove that commits wait for b."""
    b, a = await pair.b.report(), await pair.a.report()
    await pair.a.act(actions.Grow(name, "b", a.incarnation or "", b.incarnation or ""))
    growth = (await pair.a.report()).growth
    assert growth is not None
    return growth


async def write(node: NodeUnderTest) -> int:
    """A new row by a client of its own: its id, once it was acknowledged."""
    number = next(_numbers)
    client = await node.connect("locum_server")
    try:
        await client.execute("INSERT INTO appointment VALUES ($1, 'x')", number)
    finally:
        client.terminate()
    return number


@asynccontextmanager
async def waiting_commits(node: NodeUnderTest, count: int = 1) -> AsyncIterator[list[asyncio.Future[str]]]:
    """So many inserts, each of which waits for the standby when the block begins. Their connections end with it."""
    clients = [await node.connect("locum_server") for _ in range(count)]
    sql = "INSERT INTO appointment VALUES ($1, 'waits')"
    commits = [asyncio.ensure_future(client.execute(sql, next(_numbers))) for client in clients]
    try:
        await until_waiting(node, count)
        yield commits
    finally:
        for client in clients:
            client.terminate()  # no cancel request: that would end the wait
        await asyncio.gather(*commits, return_exceptions=True)


async def until_waiting(node: NodeUnderTest, count: int = 1) -> None:
    """Wait until so many commits of clients wait for the standby."""
    observer = await node.running.node.connect()
    try:
        async with asyncio.timeout(10):
            while await observer.fetchval(_WAITERS) < count:
                await asyncio.sleep(0.005)
    finally:
        observer.terminate()


@contextmanager
def standing_still(node: NodeUnderTest, title: str | None = None) -> Iterator[list[int]]:
    """SIGSTOP of the children with this word in their titles, or of the whole node when none is named; then SIGCONT."""
    postmaster = parse_process_id(node.running.supervisor.incarnation or "")
    pids = processes(node) if title is None else children_titled(postmaster, title)
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield pids
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def processes(node: NodeUnderTest) -> list[int]:
    """Every live process of the node's PostgreSQL, the postmaster first."""
    living = [pid for pid, stat in all_stats().items() if not stat.dead]
    return sorted(servers_of(str(node.settings.data_dir.resolve()), living))
