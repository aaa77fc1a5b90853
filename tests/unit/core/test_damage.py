"""A primary that is damaged: convicted by what it said itself, replaced once the candidate is known to be clean."""

from __future__ import annotations

import msgspec
import pytest

from failover.core.decide import decide
from failover.core.model import Decision, Observation, Policy, SeenServer, State
from replication.actions import Fence, Promote, ReadPlaces, StartStandby
from replication.model import (
    ActionResult,
    Evidence,
    Fault,
    FaultKind,
    Place,
    PlacesRead,
    Postmaster,
    ReceiptCheck,
    RedoFailure,
    ServerReport,
)
from tests.sim.world import World
from tests.unit.core.test_decide import healthy

POLICY = Policy()
PLACE = Place("base/5/16397", block=3)


def fault(kind: FaultKind, *places: Place) -> Fault:
    seen = Evidence("PostgreSQL's log", "agent a", "", "ERROR")
    return Fault(kind, 0.95, "", f"PostgreSQL said: {kind.value}", (seen,), places)


def seen(world: World, node: str = "a", *faults: Fault, **changes: object) -> Observation:
    observation = world.observe()
    report = observation.nodes[node]
    assert report is not None
    damaged = msgspec.structs.replace(report, faults=faults, **changes)
    return msgspec.structs.replace(observation, nodes={**observation.nodes, node: damaged})


def with_read(observation: Observation, state: State, *, clean: bool) -> Observation:
    """The candidate's agent has done what was asked."""
    pending = state.nodes["b"].pending
    report = observation.nodes["b"]
    assert pending is not None
    assert report is not None
    found = PlacesRead(pending.revision, clean, "", 9, True)
    damage = () if clean else (fault(FaultKind.PAGE_CORRUPT, PLACE),)
    result = msgspec.structs.replace(
        report,
        revision=pending.revision,
        places_read=found,
        faults=damage,
        results=(ActionResult(pending.revision, "read_places", True, "read"),),
    )
    return msgspec.structs.replace(observation, nodes={**observation.nodes, "b": result})


@pytest.mark.parametrize("kind", [FaultKind.PAGE_CORRUPT, FaultKind.INDEX_CORRUPT, FaultKind.STORAGE_ERROR])
def test_the_damaged_places_are_read_on_the_candidate_then_it_is_promoted(kind: FaultKind) -> None:
    world = healthy()
    damaged = seen(world, "a", fault(kind, PLACE))
    state, decision = decide(world.store, damaged, POLICY)
    assert decision.kind == "failover.read_places"
    assert [(action.node, action.op) for action in decision.actions] == [
        ("b", ReadPlaces((PLACE,), POLICY.places_deadline_ms))
    ]
    assert state.incident is not None
    assert state.incident_verdict is not None
    assert (state.incident_verdict.kind, state.incident_verdict.cause) == (kind, kind.cause)
    incident = state.incident
    state, decision = decide(state, with_read(damaged, state, clean=True), POLICY)
    assert decision.kind == "failover.begin"
    assert {action.node: type(action.op) for action in decision.actions} == {"a": Fence, "b": Promote}
    assert state.incident == incident


def test_an_incident_stays_open_while_the_candidate_reads_the_primarys_damaged_places() -> None:
    """The primary serves, the standby is promotable and the servers' receipts are whole: all but the primary is well."""
    world = healthy()
    report = ServerReport(
        server="s1", term=world.store.term, phase="healthy", primary="a", receipts=ReceiptCheck(world.store.term, 1, 1)
    )
    damaged = seen(world, "a", fault(FaultKind.PAGE_CORRUPT, PLACE))
    damaged = msgspec.structs.replace(damaged, servers=(SeenServer(report, 10),))
    state, kinds = world.store, []
    for _ in range(4):
        state, decision = decide(state, damaged, POLICY)
        kinds.append(decision.kind)
    assert kinds == ["failover.read_places", "incident.receipts", "steady", "steady"]
    assert state.incident is not None


def test_a_candidate_that_is_damaged_too_is_not_promoted_and_a_person_is_told() -> None:
    world = healthy()
    damaged = seen(world, "a", fault(FaultKind.PAGE_CORRUPT, PLACE))
    state, _ = decide(world.store, damaged, POLICY)
    state, decision = decide(state, with_read(damaged, state, clean=False), POLICY)
    assert not any(isinstance(action.op, Promote) for action in decision.actions)
    assert state.incident is not None
    assert any(alarm.name == "damaged_a" and "locum failover" in alarm.sentence for alarm in state.alarms)


def test_a_reading_that_is_old_does_not_count() -> None:
    world = healthy()
    damaged = seen(world, "a", fault(FaultKind.PAGE_CORRUPT, PLACE))
    state, _ = decide(world.store, damaged, POLICY)
    state, _ = decide(state, with_read(damaged, state, clean=True), msgspec.structs.replace(POLICY, observe_only=True))
    later = msgspec.structs.replace(damaged, now_ms=damaged.now_ms + POLICY.places_fresh_ms + 1)
    _, decision = decide(state, later, POLICY)
    assert decision.kind == "failover.read_places"


def test_damage_without_a_known_place_is_replaced_at_once() -> None:
    world = healthy()
    _, decision = decide(world.store, seen(world, "a", fault(FaultKind.STORAGE_ERROR)), POLICY)
    assert decision.kind == "failover.begin"


def from_server(world: World, term: int) -> Observation:
    report = ServerReport(
        server="s1", term=term, phase="healthy", primary="a", faults=(fault(FaultKind.PAGE_CORRUPT, PLACE),)
    )
    return msgspec.structs.replace(world.observe(), servers=(SeenServer(report, 10),))


def test_a_server_that_was_answered_with_damage_convicts_the_primary_of_its_own_term_only() -> None:
    world = healthy()
    assert decide(world.store, from_server(world, world.store.term), POLICY)[1].kind == "failover.read_places"
    assert decide(world.store, from_server(world, world.store.term + 1), POLICY)[1].kind != "failover.read_places"


@pytest.mark.parametrize("kind", [FaultKind.STORAGE_FULL, FaultKind.OVERLOAD])
def test_a_full_disk_and_overload_replace_nobody(kind: FaultKind) -> None:
    world = healthy()
    state, decision = decide(world.store, seen(world, "a", fault(kind)), POLICY)
    assert decision.actions == ()
    assert state.incident is None


def test_a_primary_that_died_of_its_disk_gets_the_disk_as_verdict() -> None:
    world = healthy()
    world.nodes["a"].die()
    state, decision = decide(world.store, seen(world, "a", fault(FaultKind.STORAGE_ERROR)), POLICY)
    assert decision.kind == "failover.begin"
    assert state.incident_verdict is not None
    assert state.incident_verdict.kind is FaultKind.STORAGE_ERROR


@pytest.mark.parametrize("kind", [FaultKind.STORAGE_FULL, FaultKind.READ_ONLY])
def test_a_primary_that_died_of_a_full_disk_is_replaced_and_the_disk_named(kind: FaultKind) -> None:
    world = healthy()
    world.nodes["a"].die()
    state, decision = decide(world.store, seen(world, "a", fault(kind)), POLICY)
    assert decision.kind == "failover.begin"
    assert state.incident_verdict is not None
    assert state.incident_verdict.kind is kind


def test_what_a_dead_node_said_last_becomes_the_verdict_although_it_is_read_later() -> None:
    world = healthy()
    world.nodes["a"].die()
    state, _ = decide(world.store, seen(world, "a"), POLICY)
    assert state.incident_verdict is not None
    assert state.incident_verdict.kind is FaultKind.PROCESS_DEAD
    state = msgspec.structs.replace(state, transition=None, primary="b")
    state, decision = decide(state, seen(world, "a", fault(FaultKind.STORAGE_FULL)), POLICY)
    assert decision.kind == "incident.cause_found"
    assert state.incident_verdict is not None
    assert state.incident_verdict.kind is FaultKind.STORAGE_FULL
    assert [event.event for event in decision.incident_events] == ["verdict.changed"]


def test_damage_of_a_standby_takes_away_that_it_may_be_promoted_and_is_kept_when_its_agent_forgets() -> None:
    world = healthy()
    state, decision = decide(world.store, seen(world, "b", fault(FaultKind.STORAGE_ERROR)), POLICY)
    assert decision.kind == "standby.rebuild_needed"
    assert state.nodes["b"].quarantined
    world.nodes["a"].die()
    _, decision = decide(state, world.observe(), POLICY)
    assert not any(isinstance(action.op, Promote) for action in decision.actions)


@pytest.mark.parametrize("kind", [FaultKind.PAGE_CORRUPT, FaultKind.STORAGE_ERROR])
def test_a_suspicion_raises_an_alarm_and_nobody_is_replaced_or_passed_over_for_it(kind: FaultKind) -> None:
    world = healthy()
    suspicion = msgspec.structs.replace(fault(kind, PLACE), confidence=0.5)
    for node in ("a", "b"):
        state, decision = decide(world.store, seen(world, node, suspicion), POLICY)
        assert decision.actions == ()
        assert state.nodes[node].faults == ()
        assert state.nodes["b"].eligible
        assert any(alarm.name == f"suspected_{node}" for alarm in state.alarms)
    state, decision = decide(state, world.observe(), POLICY)
    assert not any(alarm.name.startswith("suspected") for alarm in state.alarms), "it is over"


def test_the_policy_may_leave_a_kind_of_fault_to_a_person() -> None:
    world = healthy()
    policy = Policy(alarm_only=(FaultKind.VM_CORRUPT,))
    state, decision = decide(world.store, seen(world, "a", fault(FaultKind.VM_CORRUPT)), policy)
    assert decision.actions == ()
    assert any(alarm.name == "damaged_a" for alarm in state.alarms)
    _state, decision = decide(world.store, seen(world, "a", fault(FaultKind.PAGE_CORRUPT)), policy)
    assert decision.kind.startswith("failover")


def test_a_damaged_standby_loses_its_eligibility_first_and_then_an_incident_names_it() -> None:
    world = healthy()
    state, kinds = world.store, []
    for _ in range(8):
        busy = seen(world, "b", fault(FaultKind.PAGE_CORRUPT, PLACE))
        state, decision = decide(state, busy, POLICY)
        kinds.append(decision.kind)
        if state.incident is not None:
            break
    assert kinds[:2] == ["standby.rebuild_needed", "standby.disqualified"]
    assert kinds[-1] == "incident.opened"
    assert state.incident_verdict is not None
    assert (state.incident_verdict.node, state.incident_verdict.kind) == ("b", FaultKind.PAGE_CORRUPT)
    assert "block 3" in state.incident_verdict.sentence


def test_what_a_standbys_wal_proves_of_its_primary_convicts_the_primary() -> None:
    """A stale page that was read back and changed is in the WAL that the standby received."""
    world = healthy()
    observation = world.observe()
    standby = observation.nodes["b"]
    assert standby is not None
    accusing = msgspec.structs.replace(standby, upstream_faults=(fault(FaultKind.STALE_PAGE, PLACE),))
    seen_so = msgspec.structs.replace(observation, nodes={**observation.nodes, "b": accusing})
    state, decision = decide(world.store, seen_so, POLICY)
    assert [one.kind for one in state.nodes["a"].faults] == [FaultKind.STALE_PAGE]
    assert state.nodes["b"].faults == ()
    assert decision.kind == "failover.read_places"


def test_a_standby_on_another_timeline_accuses_nobody() -> None:
    world = healthy()
    observation = world.observe()
    standby = observation.nodes["b"]
    assert standby is not None
    accusing = msgspec.structs.replace(standby, upstream_faults=(fault(FaultKind.STALE_PAGE, PLACE),), timeline=9)
    state, _ = decide(
        world.store, msgspec.structs.replace(observation, nodes={**observation.nodes, "b": accusing}), POLICY
    )
    assert state.nodes["a"].faults == ()


RECORD_LSN = 0x3A5F2C8


def broken_down(world: World, *, asked: bool = True, blamed: str | None = None) -> Observation:
    """The standby's recovery broke off over what the primary wrote upon an old page."""
    convicted = (fault(FaultKind.STALE_PAGE, PLACE),) if blamed == "a" else ()
    observation = seen(world, "a", *convicted)
    standby = observation.nodes["b"]
    assert standby is not None
    down = msgspec.structs.replace(
        standby,
        postmaster=Postmaster.EXITED,
        in_recovery=None,
        receiver=None,
        faults=(fault(FaultKind.REDO_FAILED),),
        redo_failure=RedoFailure(RECORD_LSN, PLACE.path, PLACE.block, "failed to add tuple", asked, blamed),
        exit_sentence="exited with code 1",
    )
    return msgspec.structs.replace(observation, nodes={**observation.nodes, "b": down})


def decided(world: World, observation: Observation, ticks: int) -> tuple[State, list[Decision]]:
    state, found = world.store, []
    for tick in range(ticks):
        later = msgspec.structs.replace(observation, now_ms=observation.now_ms + 250 * tick)
        state, decision = decide(state, later, POLICY)
        found.append(decision)
    return state, found


def test_a_standby_whose_recovery_broke_off_is_left_alone_until_it_is_known_whose_page_is_wrong() -> None:
    """A rebuild would destroy what may be the only good copy, and a primary that goes on alone may be the one that misreads."""
    world = healthy()
    waits = POLICY.redo_blame_ms // 250
    state, found = decided(world, broken_down(world, asked=False), waits)
    assert {action.op for decision in found for action in decision.actions} == set()
    assert state.nodes["b"].eligible
    state, found = decided(world, broken_down(world, asked=False), waits + 8)
    assert "standby.disqualified" in [decision.kind for decision in found], (
        "not for ever: then it is taken for its own fault"
    )


def test_a_standby_that_broke_down_over_its_own_page_is_rebuilt() -> None:
    world = healthy()
    state, found = decided(world, broken_down(world, blamed="b"), 8)
    assert "standby.disqualified" in [decision.kind for decision in found]
    assert not state.nodes["b"].eligible


def test_a_standby_that_broke_down_over_its_primarys_page_is_promoted_up_to_before_that_record() -> None:
    world = healthy()
    state, found = decided(world, broken_down(world, blamed="a"), 1)
    (decision,) = found
    assert decision.kind == "failover.before_record"
    ops = {action.node: action.op for action in decision.actions}
    assert isinstance(ops["b"], StartStandby) and isinstance(ops["a"], Fence)
    assert (ops["b"].upstream, ops["b"].stop_before_lsn) == (None, RECORD_LSN)
    assert state.incident_verdict is not None
    assert (state.incident_verdict.kind, state.incident_verdict.node) == (FaultKind.STALE_PAGE, "a")


@pytest.mark.parametrize("spoiled", ["relaxed", "receipts", "not eligible", "paused"])
def test_it_is_not_promoted_where_something_may_be_lost(spoiled: str) -> None:
    world = healthy()
    observation = broken_down(world, blamed="a")
    primary, state = observation.nodes["a"], world.store
    assert primary is not None
    if spoiled == "relaxed":  # it has acknowledged alone since
        nodes = {**observation.nodes, "a": msgspec.structs.replace(primary, names=())}
        observation = msgspec.structs.replace(observation, nodes=nodes)
    elif spoiled == "receipts":
        servers = tuple(
            msgspec.structs.replace(one, report=msgspec.structs.replace(one.report, receipts_problem="disk full"))
            for one in observation.servers
        )
        observation = msgspec.structs.replace(observation, servers=servers)
    elif spoiled == "paused":
        state = msgspec.structs.replace(state, paused_until_ms=observation.now_ms + 60_000)
    else:
        state = msgspec.structs.replace(
            state, nodes={**state.nodes, "b": msgspec.structs.replace(state.nodes["b"], eligible=False)}
        )
    _, decision = decide(state, observation, POLICY)
    assert decision.kind != "failover.before_record"
