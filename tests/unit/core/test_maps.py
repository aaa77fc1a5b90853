"""A visibility map that lies: its node is replaced, and the map is thrown away, since WAL carries it to the other node."""

from __future__ import annotations

import msgspec
import pytest

from failover.core.decide import decide
from failover.core.model import Observation, Policy, State
from replication.actions import DropMaps, Op, Promote, Reindex
from replication.model import ActionResult, FaultKind, Role, Stage
from tests.unit.core.test_damage import PLACE, POLICY, fault, seen, with_read
from tests.unit.core.test_decide import healthy

LIE = fault(FaultKind.VM_CORRUPT, PLACE)


def promoted(kind: FaultKind) -> tuple[State, Observation]:
    """b has just been promoted past a, which carries the fault."""
    world = healthy()
    damaged = seen(world, "a", fault(kind, PLACE))
    state, _ = decide(world.store, damaged, POLICY)
    read = with_read(damaged, state, clean=True)
    state, decision = decide(state, read, POLICY)
    (promotion,) = (action for action in decision.actions if isinstance(action.op, Promote))
    b = read.nodes["b"]
    assert b is not None
    b = msgspec.structs.replace(
        b,
        revision=promotion.revision,
        results=(ActionResult(promotion.revision, "promote", True, "promoted"),),
        term=state.term,
        in_recovery=False,
        configured_role=Role.PRIMARY,
        stage=Stage.OPEN,
        timeline=2,
    )
    return state, msgspec.structs.replace(read, nodes={**read.nodes, "b": b})


def done(state: State, observation: Observation, name: str, op: str) -> Observation:
    pending, report = state.nodes[name].pending, observation.nodes[name]
    assert pending is not None and report is not None
    result = ActionResult(pending.revision, op, True, "done")
    report = msgspec.structs.replace(report, revision=pending.revision, results=(result,), faults=())
    return msgspec.structs.replace(observation, nodes={**observation.nodes, name: report})


def asked_of_b(state: State, observation: Observation) -> tuple[State, list[Op]]:
    """Until it is given something to do, or for a while."""
    for _ in range(8):
        state, decision = decide(state, observation, POLICY)
        if ops := [action.op for action in decision.actions if action.node == "b"]:
            return state, ops
    return state, []


def test_the_node_that_is_promoted_past_a_wrong_map_throws_it_away_before_anything_else() -> None:
    state, observation = promoted(FaultKind.VM_CORRUPT)
    report = observation.nodes["b"]
    assert report is not None
    state, ops = asked_of_b(state, observation)
    assert ops == [DropMaps((PLACE,), report.incarnation or "")]
    state, decision = decide(state, done(state, observation, "b", "drop_maps"), POLICY)
    assert state.nodes["b"].maps_due == () and decision.kind != "primary.drop_maps"


def test_maps_are_kept_after_another_fault() -> None:
    state, observation = promoted(FaultKind.STALE_PAGE)
    state, ops = asked_of_b(state, observation)
    assert state.primary == "b" and ops == []


def alone(policy: Policy = POLICY) -> tuple[State, Observation, list[str]]:
    """a is all that is left, and its map lies."""
    world = healthy()
    observation = seen(world, "a", LIE, names=())
    records = {name: msgspec.structs.replace(record, eligible=False) for name, record in world.store.nodes.items()}
    state, kinds = msgspec.structs.replace(world.store, nodes=records), []
    for _ in range(4):
        state, decision = decide(state, observation, policy)
        kinds.append(decision.kind)
        if decision.kind == "primary.drop_maps":
            assert [action.op for action in decision.actions] == [DropMaps((PLACE,), decision_incarnation(observation))]
            observation = done(state, observation, "a", "drop_maps")
        assert not any(isinstance(action.op, Reindex) for action in decision.actions), "indexes do not read the map"
    return state, observation, kinds


def decision_incarnation(observation: Observation) -> str:
    report = observation.nodes["a"]
    assert report is not None
    return report.incarnation or ""


def test_a_primary_that_is_all_that_is_left_throws_its_own_wrong_map_away_and_is_well_again() -> None:
    state, _, kinds = alone()
    assert kinds.count("primary.drop_maps") == 1
    assert state.nodes["a"].faults == ()


def test_the_policy_may_leave_wrong_maps_to_a_person() -> None:
    state, _, kinds = alone(Policy(alarm_only=(FaultKind.VM_CORRUPT,)))
    assert "primary.drop_maps" not in kinds
    assert [one.kind for one in state.nodes["a"].faults] == [FaultKind.VM_CORRUPT]


def test_then_maps_that_were_handed_on_are_left_to_a_person_too() -> None:
    state, observation = promoted(FaultKind.VM_CORRUPT)
    state, _ = decide(state, observation, POLICY)
    assert state.nodes["b"].maps_due == (PLACE,)
    for _ in range(8):
        state, decision = decide(state, observation, Policy(alarm_only=(FaultKind.VM_CORRUPT,)))
        assert decision.kind != "primary.drop_maps"


@pytest.mark.parametrize("node", ["a", "b"])
def test_while_another_may_take_its_place_the_map_is_evidence(node: str) -> None:
    world = healthy()
    _, decision = decide(world.store, seen(world, node, LIE), POLICY)
    assert decision.kind != "primary.drop_maps"
