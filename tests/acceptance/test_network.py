"""Network paths that drop every packet: who goes on, who falls silent, and what is made of it (DESIGN section 4).

Every path is cut as a firewall cuts it: no reset, no end, connects that get no answer (compose/listener.py).
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import asyncpg
import msgspec
import pytest

from compose.adopt import leftovers
from replication.proc import ProcessId
from tests.acceptance.cluster import Cluster, running
from tests.acceptance.faults import HANG, KILL_BOTH, Fault
from tests.acceptance.links import (
    between_controller_and,
    between_nodes,
    between_server_and,
    between_server_and_controller,
    command,
    heal,
    set_links,
)
from tests.acceptance.story import RATE, alarms, is_open, story
from tests.acceptance.workload import Workload

LEASE_TTL_S = 3.0
"""`lease_ttl_ms` as it is by default."""
MARGIN_S = 1.5
"""Generous, for two busy cores."""
CUT_S = 8.0
SERVER_CUT_S = 5.0
"""Less than the deadline of a request."""
DEADLINE_S = 30.0
GIVES_UP_S = 12.0
UNANSWERED = "Connection timed out"
"""What libpq says of a connect that got no answer."""
CONNECT_S = 5.0
GONE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""How a session ends that its node ends; the third is the driver's word for a FATAL between two messages."""


async def test_a_primary_that_only_the_controller_cannot_reach_goes_on_as_it_is(tmp_path: Path) -> None:
    """DESIGN 4: "Losing the controller must not stop the service"; the second witness does not agree."""
    async with story(tmp_path) as it:
        cut = time.monotonic()
        await set_links(it.cluster, between_controller_and(it.primary), "frozen")
        await it.cluster.wait_until(lambda view: view["nodes"][it.primary]["state"] == "unreachable")
        await it.hold(CUT_S - (time.monotonic() - cut))
        view = await it.cluster.view()
        assert alarms(view) == {f"agent_silent.{it.primary}"}
        assert view["nodes"][it.primary]["state"] == "unreachable"
        assert (view["term"], view["primary"]) == (it.before["term"], it.primary)
        await heal(it.cluster)
        view, history = await it.end()
        await it.nothing_changed(view)
        assert history.gap_ms(cut) < 1_000


@pytest.mark.parametrize("server_reaches_it", [True, False])
async def test_a_primary_that_was_cut_off_falls_silent_within_its_lease_and_comes_back_as_a_standby(
    tmp_path: Path, server_reaches_it: bool
) -> None:
    """DESIGN 4: "Otherwise it may have been superseded and self-fences: this stops stale reads from a cut-off old primary"."""
    async with story(tmp_path) as it:
        paths = between_controller_and(it.primary) + between_nodes(it.primary, it.standby)
        if not server_reaches_it:
            paths += between_server_and(it.primary)
        cut = time.monotonic()
        await set_links(it.cluster, paths, "frozen")
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(it.read_newest(over))
            silent = tasks.create_task(silent_after_s(it.cluster, it.primary, cut))
            await it.cluster.wait_until(lambda view: view["primary"] == it.standby and is_open(view), DEADLINE_S)
            await it.workload.until_acknowledged(RATE)
            assert await silent < LEASE_TTL_S + MARGIN_S
            over.set()
        await heal(it.cluster)
        view, history = await it.end()
        assert (view["term"], view["primary"]) == (it.before["term"] + 1, it.standby)
        assert view["nodes"][it.primary]["role"] == "standby"
        assert history.gap_ms(cut) < 1000 * LEASE_TTL_S
        incident = await it.cluster.closed_incident()
        assert len(await it.cluster.incidents()) == 1
        verdict = incident["verdict"]
        assert (verdict["kind"], verdict["cause"], verdict["node"]) == ("unreachable", "network", it.primary)
        receipts = incident["receipts"]
        assert receipts["acknowledged"] >= RATE
        assert receipts["present"] + receipts["restored"] == receipts["acknowledged"]
        assert (receipts["lost"], receipts["double_booked"]) == (0, 0)
        print(f"silent after {silent.result():.2f} s, gap {history.gap_ms(cut):.0f} ms: {verdict['sentence']}")


async def test_a_server_on_the_side_of_the_old_primary_answers_nothing_from_it_and_books_on_the_new_one_later(
    tmp_path: Path,
) -> None:
    """Controller and standby on one side, server and old primary on the other: nobody tells the server of the new term."""
    async with story(tmp_path) as it:
        paths = between_controller_and(it.primary) + between_nodes(it.primary, it.standby)
        paths += between_server_and_controller() + between_server_and(it.standby)
        await it.workload.stop()  # waiting bookings would hold every connection, and reads would prove nothing
        cut, over = time.monotonic(), asyncio.Event()
        await set_links(it.cluster, paths, "frozen")
        async with asyncio.TaskGroup() as tasks:
            reads = tasks.create_task(it.last_read_s(over))
            await it.cluster.wait_until(lambda view: view["primary"] == it.standby and is_open(view), DEADLINE_S)
            await asyncio.sleep(cut + LEASE_TTL_S + 2 * MARGIN_S - time.monotonic())
            over.set()
        assert cut < reads.result() < cut + LEASE_TTL_S + MARGIN_S
        async with Workload(it.cluster.ready.server, it.proposals, rate=RATE) as held:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await held.until_acknowledged(1)
            await heal(it.cluster)
            held.history.bookings[:0] = it.workload.history.bookings
            it.workload = held
            view, _history = await it.end()
        assert (view["term"], view["primary"]) == (it.before["term"] + 1, it.standby)
        verdict = (await it.cluster.closed_incident())["verdict"]
        assert (verdict["kind"], verdict["cause"], verdict["node"]) == ("unreachable", "network", it.primary)
        print(f"last read {reads.result() - cut:.2f} s after the cut")


async def test_a_primary_goes_on_alone_when_its_standby_is_cut_off_from_everything(tmp_path: Path) -> None:
    """DESIGN 4, shrink: after `standby_lost_ms` the primary serves alone, degraded, and grows again."""
    async with story(tmp_path) as it:
        paths = between_controller_and(it.standby) + between_nodes(it.primary, it.standby)
        cut = time.monotonic()
        await set_links(it.cluster, [*paths, *between_server_and(it.standby)], "frozen")
        await it.cluster.wait_until(
            lambda view: is_open(view) and not view["nodes"][it.standby]["eligible"], DEADLINE_S
        )
        await gives_up_connects(it.cluster, it.standby)
        await it.hold(CUT_S - (time.monotonic() - cut))
        view = await it.cluster.view()
        assert (view["term"], view["primary"], view["phase"]) == (it.before["term"], it.primary, "degraded")
        assert alarms(view) == {f"agent_silent.{it.standby}", "no_standby"}
        await heal(it.cluster)
        view, history = await it.end()
        assert (view["term"], view["primary"]) == (it.before["term"], it.primary)
        assert it.cluster.postmaster(it.primary) == it.postmasters[it.primary]
        assert await it.cluster.incidents() == []
        assert history.gap_ms(cut) < 1000 * LEASE_TTL_S
        print(f"gap {history.gap_ms(cut):.0f} ms")


async def test_a_server_that_cannot_reach_the_controller_books_on_the_last_primary_it_heard_of(tmp_path: Path) -> None:
    """DESIGN 3: the server knows only the topology record, and what it knows does not age."""
    async with story(tmp_path) as it:
        cut = time.monotonic()
        await set_links(it.cluster, between_server_and_controller(), "frozen")
        await it.hold(CUT_S)
        await heal(it.cluster)
        view, history = await it.end()
        await it.nothing_changed(view)
        assert history.gap_ms(cut) < 1_000


async def test_a_primary_goes_on_alone_when_the_path_to_its_standby_is_cut(tmp_path: Path) -> None:
    """Controller and server reach both, the nodes do not reach each other: whom everybody reaches is not replaced."""
    async with story(tmp_path) as it:
        cut = time.monotonic()
        await set_links(it.cluster, between_nodes(it.primary, it.standby), "frozen")
        await it.cluster.wait_until(
            lambda view: is_open(view) and not view["nodes"][it.standby]["eligible"], DEADLINE_S
        )
        await it.hold(CUT_S - (time.monotonic() - cut))
        assert "no_standby" in alarms(await it.cluster.view())
        await heal(it.cluster)
        healed = time.monotonic()
        view, history = await it.end()
        assert (view["term"], view["primary"]) == (it.before["term"], it.primary)
        assert it.cluster.postmaster(it.primary) == it.postmasters[it.primary]
        assert await it.cluster.incidents() == []
        assert history.gap_ms(cut) < 1000 * LEASE_TTL_S
        print(f"gap {history.gap_ms(cut):.0f} ms, whole {time.monotonic() - healed:.1f} s after it was healed")


async def test_bookings_wait_while_only_the_server_cannot_reach_the_primary(tmp_path: Path) -> None:
    """One witness alone convicts nobody: the primary's own agent answers, and its standby receives. A person is told."""
    async with story(tmp_path) as it:
        cut = time.monotonic()
        await set_links(it.cluster, between_server_and(it.primary), "frozen")
        await it.cluster.wait_until(lambda view: "server_cut_off.server" in {alarm["name"] for alarm in view["alarms"]})
        await asyncio.sleep(max(0.0, cut + SERVER_CUT_S - time.monotonic()))
        await heal(it.cluster)
        await it.cluster.wait_until(lambda view: view["alarms"] == [])
        view, history = await it.end()
        await it.nothing_changed(view)
        assert abs(history.gap_ms(cut) - 1000 * SERVER_CUT_S) < 1000 * MARGIN_S
        print(f"gap {history.gap_ms(cut):.0f} ms")


@pytest.mark.parametrize("fault", [KILL_BOTH, HANG], ids=lambda fault: fault.verdict)
async def test_behind_links_a_dead_or_hanging_node_is_not_taken_for_a_network_that_is_cut(
    tmp_path: Path, fault: Fault
) -> None:
    """A proxy that took connections for a dead target, or answered for a hanging one, would hide what ails it."""
    async with story(tmp_path) as it:
        began = await fault.inject(it.cluster, it.primary)
        await it.cluster.wait_until(lambda view: view["primary"] == it.standby and is_open(view), DEADLINE_S)
        await it.workload.until_acknowledged(RATE)
        if fault.heal is not None:
            await fault.heal(it.cluster, it.primary)
        _view, history = await it.end()
        incident = await it.cluster.closed_incident()
        assert (incident["verdict"]["kind"], incident["verdict"]["cause"]) == (fault.verdict, "process")
        print(f"gap {history.gap_ms(began):.0f} ms")


async def test_a_dead_process_of_links_comes_back_with_all_of_them_open(tmp_path: Path) -> None:
    """Its death cuts every link at once, until `up` has started it again; no booking is lost or refused."""
    async with story(tmp_path) as it:
        await set_links(it.cluster, between_controller_and(it.primary), "frozen")
        pids = msgspec.json.decode(it.cluster.layout.pids.read_bytes(), type=dict[str, ProcessId])
        os.kill(pids["proxies"].pid, signal.SIGKILL)
        await it.workload.until_acknowledged(RATE)
        await it.end()
        (listed,) = await command(it.cluster, {"command": "list"})
        assert {link["state"] for link in listed["links"].values()} == {"open"}
        after = msgspec.json.decode(it.cluster.layout.pids.read_bytes(), type=dict[str, ProcessId])
        assert after["proxies"] != pids["proxies"]


async def test_links_go_with_up_are_taken_over_by_the_next_one_and_can_be_left_out_again(tmp_path: Path) -> None:
    """The proxies are a child like any other: left behind by a killed `up`, ended by the next, stopped last by Ctrl-C."""
    async with running(tmp_path, "--proxied") as cluster:
        before = await cluster.view()
        postmasters = {node: cluster.postmaster(node) for node in before["nodes"]}
        await set_links(cluster, between_server_and_controller(), "frozen")
        await cluster.kill_up()
        await cluster.start()
        await cluster.wait_healthy()
        assert {node: cluster.postmaster(node) for node in postmasters} == postmasters
        (listed,) = await command(cluster, {"command": "list"})
        assert {link["state"] for link in listed["links"].values()} == {"open"}
        assert await cluster.interrupt() == 0
        assert leftovers(cluster.layout) == []
        assert not cluster.layout.links_socket.exists()
    async with running(tmp_path) as cluster:
        after = await cluster.view()
        assert (after["term"], after["primary"]) == (before["term"], before["primary"])
        assert cluster.ready.proxies is msgspec.UNSET


async def gives_up_connects(cluster: Cluster, node: str) -> None:
    """Wait until a standby has given up two connects that got no answer, and tries again.

    One that would not give up sends its SYNs with longer and longer pauses, and does not notice for a minute that the
    path is back.
    """
    until = time.monotonic() + GIVES_UP_S
    logs = cluster.layout.agent_state(node) / "log"
    while sum(log.read_text(encoding="utf-8").count(UNANSWERED) for log in logs.glob("*.json")) < 2:
        assert time.monotonic() < until, f"the standby sticks to a connect that nobody answers\n{cluster.tell()}"
        await asyncio.sleep(0.05)


async def silent_after_s(cluster: Cluster, node: str, since_s: float) -> float:
    """Ask a node directly, not through a link, until it ends its sessions and lets nobody in; seconds since then."""
    connection = await asyncpg.connect(cluster.ready.nodes[node].dsn, timeout=CONNECT_S)
    try:
        while time.monotonic() - since_s < DEADLINE_S:
            await connection.fetchval("SELECT count(*) FROM appointment")
            await asyncio.sleep(0.02)
    except GONE:
        fell_silent_s = time.monotonic() - since_s
    else:
        raise AssertionError(f"{node} still answered after {DEADLINE_S} s")
    finally:
        connection.terminate()
    with pytest.raises(GONE):
        await asyncpg.connect(cluster.ready.nodes[node].dsn, timeout=CONNECT_S)
    return fell_silent_s
