"""A primary's disk lost WAL that it had sent: the standby cannot read it either, and is not promoted, but it is not to blame."""

from __future__ import annotations

from failover.core.decide import decide
from replication.actions import Promote
from replication.model import FaultKind, Place
from tests.unit.core.test_damage import POLICY, fault, seen
from tests.unit.core.test_decide import healthy

GAP = fault(FaultKind.WAL_CORRUPT, Place("pg_wal/000000010000000000000018"))


def test_the_primary_is_named_and_the_standby_is_not_promoted() -> None:
    world = healthy()
    state, observation = world.store, seen(world, "b", GAP, upstream_faults=(GAP,))
    for _ in range(6):
        state, decision = decide(state, observation, POLICY)
        assert not any(isinstance(action.op, Promote) for action in decision.actions)
    assert state.incident_verdict is not None
    assert (state.incident_verdict.node, state.incident_verdict.kind) == ("a", FaultKind.WAL_CORRUPT)
    assert not state.nodes["b"].eligible


def test_a_standby_that_was_blamed_first_gives_the_blame_back() -> None:
    world = healthy()
    state, observation = world.store, seen(world, "b", GAP)
    for _ in range(3):
        state, _ = decide(state, observation, POLICY)
    assert not state.nodes["b"].eligible
    later = seen(world, "b", GAP, upstream_faults=(GAP,))
    for _ in range(3):
        state, _ = decide(state, later, POLICY)
    assert state.incident_verdict is not None and state.incident_verdict.node == "a"


def test_a_standby_that_lacks_other_wal_than_its_primary_may_hold_the_good_copy_of_that() -> None:
    world = healthy()
    elsewhere = fault(FaultKind.WAL_CORRUPT, Place("pg_wal/000000010000000000000019"))
    state, observation = world.store, seen(world, "b", elsewhere, upstream_faults=(GAP,))
    for _ in range(6):
        state, _ = decide(state, observation, POLICY)
    assert state.nodes["b"].eligible
