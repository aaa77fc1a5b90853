"""The lone rule: a primary that nobody can be compared with opens only when nothing that was acknowledged is missing."""

from __future__ import annotations

import msgspec
import pytest

from failover.core.context import with_node
from failover.core.lone_rule import why_end_is_short, why_receipts_forbid
from failover.core.model import Policy, State, TermRecord, initial_state
from failover.core.view import next_step, phase
from replication.actions import CheckReceipts, Promote
from replication.model import NodeReport, ReceiptsFound, Stage
from replication.topology import Phase
from tests.sim.world import World
from tests.unit.core.test_decide import healthy

POLICY = Policy()


def lone() -> World:
    """The standby is lost for good, the primary has served alone since."""
    world = healthy()
    world.nodes["b"].die()
    world.nodes["b"].agent_frozen_until_ms = 1 << 60
    steps(world, 100)
    process = world.nodes["a"].process
    assert process is not None
    assert process.names == ()
    return world


def steps(world: World, count: int) -> None:
    for _ in range(count):
        world.step()


def stage(world: World) -> Stage | None:
    process = world.nodes["a"].process
    return process.stage if process is not None else None


def said(world: World) -> str:
    return next_step(world.store, world.observe(), POLICY) or ""


def test_it_opens_when_every_receipt_is_found() -> None:
    world = lone()
    before = set(world.receipts)
    world.nodes["a"].die()
    steps(world, 60)
    assert {"start.read_end", "start.check_receipts", "start.proved_alone", "start.open_alone"} <= set(world.kinds)
    assert stage(world) is Stage.OPEN
    assert before <= set(world.nodes["a"].wal)


def test_it_stays_closed_when_an_acknowledged_write_is_missing() -> None:
    world = lone()
    world.nodes["a"].die()
    lost = max(world.receipts)
    world.nodes["a"].wal.remove(lost)
    world.nodes["a"].observed_lsn = 0
    steps(world, 60)
    assert stage(world) is Stage.CLOSED
    assert phase(world.store, world.observe(), POLICY) is Phase.NO_PRIMARY
    assert "acknowledged writes are missing" in said(world)
    assert "locum failover --to a --accept-data-loss" in said(world)


def test_it_stays_closed_when_its_wal_ends_below_what_its_agent_has_seen() -> None:
    world = lone()
    world.nodes["a"].lose_tail(20)
    world.nodes["a"].observed_lsn = len(world.nodes["a"].wal) + 20
    steps(world, 60)
    assert stage(world) is Stage.CLOSED
    assert "its agent has seen" in said(world)


def test_it_stays_closed_while_the_servers_cannot_be_asked() -> None:
    world = lone()
    world.nodes["a"].die()
    for _ in range(300):
        world.in_flight = [item for item in world.in_flight if not isinstance(item[1].op, CheckReceipts)]
        world.step()
    assert stage(world) is Stage.CLOSED
    assert "start the servers" in said(world)


def test_an_eligible_peer_is_awaited_then_the_receipts_stand_in_for_it() -> None:
    world = healthy()
    world.nodes["b"].agent_frozen_until_ms = 1 << 60
    world.nodes["b"].die()
    world.nodes["a"].die()
    steps(world, POLICY.cold_start_ms // 50 - 40)
    assert stage(world) is None, "not before cold_start_ms"
    assert "bring the host of b back" in said(world)
    steps(world, 200)
    assert world.store.nodes["b"].eligible is False
    assert stage(world) is Stage.OPEN


def test_a_peer_that_comes_back_while_it_is_closed_without_comparison_is_compared_after_all() -> None:
    world = healthy()
    world.nodes["b"].agent_frozen_until_ms = 1 << 60
    world.nodes["b"].die()
    world.nodes["a"].die()
    while stage(world) is not Stage.CLOSED:
        world.in_flight = [item for item in world.in_flight if not isinstance(item[1].op, CheckReceipts)]
        world.step()
    world.nodes["b"].agent_frozen_until_ms = 0
    for _ in range(200):
        world.in_flight = [item for item in world.in_flight if not isinstance(item[1].op, CheckReceipts)]
        world.step()
    assert {"start.compare_after_all", "start.compare"} <= set(world.kinds)
    assert world.is_settled()


def test_a_candidate_that_was_restarted_while_it_was_promoted_shows_that_it_has_everything() -> None:
    """It confirmed more after it was chosen, until the order reached it, and its disk lost that: nobody saw either."""
    world = healthy()
    a, b = world.nodes["a"], world.nodes["b"]
    a.agent_frozen_until_ms = a.frozen_until_ms = world.now_ms + 1_500
    while world.store.transition is None:
        world.step()
    world.in_flight = [item for item in world.in_flight if not isinstance(item[1].op, Promote)]  # the order is lost
    world.faults.controller_down_until_ms = world.now_ms + 10_000
    confirmed = len(b.wal)
    a.agent_frozen_until_ms = a.frozen_until_ms = 0
    while not any(record in world.receipts for record in b.wal[confirmed:]):
        world.step()
    lost = len(b.wal) - confirmed
    a.die()
    a.agent_frozen_until_ms = 1 << 60
    b.lose_tail(lost)
    world.faults.controller_down_until_ms = 0
    steps(world, 200)
    assert world.store.transition is not None, "it was promoted without what it had confirmed"
    assert "acknowledged writes are missing" in said(world)


def state_with(**confirmed: int) -> State:
    state = initial_state(("a", "b"))
    state = msgspec.structs.replace(state, primary="a", term=2, history=(TermRecord(2, "a", 3, 1_000),))
    for name, lsn in confirmed.items():
        state = with_node(state, name, confirmed_flush_lsn=lsn, confirmed_timeline=3)
    return state


@pytest.mark.parametrize(
    ("end_lsn", "timeline", "why"),
    [
        (5_000, 3, None),
        (4_999, 3, "b has confirmed"),
        (5_000, 2, "timeline 2"),
        (None, None, "could not be read"),
        (999, 3, "end-of-promotion"),
    ],
)
def test_the_end_of_wal_must_reach_everything_that_was_seen(
    end_lsn: int | None, timeline: int | None, why: str | None
) -> None:
    report = NodeReport(node="a", boot_id="1", seq=1, clock_ms=1)
    found = why_end_is_short(state_with(b=5_000), "a", end_lsn, timeline, report)
    assert (found is None) is (why is None)
    assert why is None or (found is not None and why in found)


def test_an_lsn_of_another_timeline_says_nothing() -> None:
    state = with_node(state_with(), "b", confirmed_flush_lsn=9_000, confirmed_timeline=2)
    report = NodeReport(
        node="a", boot_id="1", seq=1, clock_ms=1, last_observed_flush_lsn=9_000, last_observed_timeline=2
    )
    assert why_end_is_short(state, "a", 5_000, 3, report) is None
    later = msgspec.structs.replace(report, last_observed_timeline=3)
    assert "agent has seen" in (why_end_is_short(state, "a", 5_000, 3, later) or "")


def test_a_receipt_above_the_end_of_wal_forbids_too() -> None:
    whole = ReceiptsFound(1, "x", 5, 5, 4_000)
    assert why_receipts_forbid(4_000, whole) is None
    assert why_receipts_forbid(3_999, whole) is not None
    assert why_receipts_forbid(None, whole) is not None
    assert "missing" in (why_receipts_forbid(4_000, ReceiptsFound(1, "x", 5, 4, 0, ("id",))) or "")
