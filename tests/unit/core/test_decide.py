"""Single decisions of the core, and the page that is generated from its table."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from failover.core.candidate import Candidacy, candidacy
from failover.core.context import with_node
from failover.core.decide import decide
from failover.core.invariants import InvariantViolation, check_step
from failover.core.model import Command, CommandKind, Observation, Policy, Silence, State, initial_state
from failover.core.transitions import KINDS, TABLE, document
from failover.core.view import phase
from replication.actions import Fence, InitDb, Promote, StartPrimary
from replication.model import (
    ActionResult,
    Comparison,
    DataDirectory,
    NodeReport,
    Postmaster,
    Probe,
    Role,
    WalComparison,
    Walsender,
    Witness,
)
from replication.topology import Phase
from tests.sim.world import World

POLICY = Policy()


def healthy() -> World:
    """A model cluster that has just become healthy."""
    world = World(1)
    for _ in range(1000):
        world.step()
        if world.store.system_identifier is not None and world.is_settled():
            return world
    raise AssertionError("the model cluster did not become healthy")


def ask(kind: CommandKind, term: int = 1, **fields: object) -> Command:
    return Command(id="c1", kind=kind, expected_term=term, **fields)  # type: ignore[arg-type]


def observed(world: World, *commands: Command, **nodes: NodeReport | None) -> Observation:
    seen = world.observe()
    silence = {name: Silence.REFUSED for name, report in nodes.items() if report is None}
    return msgspec.structs.replace(seen, commands=commands, nodes={**seen.nodes, **nodes}, silence=silence)


def test_the_page_of_the_state_machine_is_generated_from_the_table() -> None:
    page = Path(__file__).parents[3] / "docs" / "STATE_MACHINE.md"
    assert page.read_text(encoding="utf-8") == document()
    assert {kind for row in TABLE for kind in row.then} <= KINDS


def test_first_start_names_a_primary_then_makes_it() -> None:
    empty = {
        name: NodeReport(node=name, boot_id="1", seq=1, clock_ms=1, data=DataDirectory.EMPTY) for name in ("a", "b")
    }
    observation = Observation(now_ms=0, at="", nodes=dict(empty))
    state, decision = decide(initial_state(("a", "b")), observation, POLICY)
    assert (state.primary, state.term, decision.actions) == ("a", 1, ())
    state, decision = decide(state, observation, POLICY)
    assert [(action.node, action.op) for action in decision.actions] == [("a", InitDb())]
    assert state.nodes["a"].pending is not None
    assert decide(state, observation, POLICY)[1].actions == ()


def test_a_dead_primary_is_replaced_in_one_decision() -> None:
    world = healthy()
    world.nodes["a"].die()
    state, decision = decide(world.store, world.observe(), POLICY)
    assert decision.kind == "failover.begin"
    assert {action.node: type(action.op) for action in decision.actions} == {"a": Fence, "b": Promote}
    assert state.term == 2
    assert {action.term for action in decision.actions} == {2}
    assert state.incident_verdict is not None
    assert state.incident_verdict.kind.value == "process_dead"
    assert phase(state, world.observe(), POLICY) is Phase.FAILING_OVER


def test_a_silent_agent_alone_promotes_nothing() -> None:
    world = healthy()
    observation = observed(world, a=None)
    assert decide(world.store, observation, POLICY)[1].actions == ()


def test_a_silent_agent_and_a_refused_postgres_promote() -> None:
    world = healthy()
    report = observed(world).nodes["b"]
    assert report is not None
    witness = msgspec.structs.replace(report, receiver=None, witness=Witness("a", "refused", 1, 0))
    assert decide(world.store, observed(world, a=None, b=witness), POLICY)[1].kind == "failover.begin"
    late = msgspec.structs.replace(observed(world, a=None, b=witness), late=True)
    assert decide(world.store, late, POLICY)[1].actions == ()


def test_nothing_is_promoted_past_a_primary_that_served_alone() -> None:
    world = healthy()
    world.store = with_node(world.store, "b", eligible=False)
    world.nodes["a"].die()
    _, decision = decide(world.store, world.observe(), POLICY)
    assert not any(isinstance(action.op, Promote) for action in decision.actions)


def test_a_restarted_standby_is_eligible_but_not_promotable() -> None:
    world = healthy()
    world.nodes["b"].start(Role.STANDBY, "b_g1", "a", ())
    report = world.observe().nodes["b"]
    assert candidacy(world.store, "b", report, POLICY) is Candidacy.UNVERIFIED


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"replay_paused": True}, Candidacy.PAUSED),
        ({"replay_paused": True, "replay_paused_by_probe": True}, Candidacy.PROMOTABLE),
        ({"replay_moved": False}, Candidacy.STUCK),
        ({"receive_lsn": 0, "replay_lsn": 0}, Candidacy.BEHIND),
        ({"postmaster": Postmaster.EXITED}, Candidacy.NOT_RUNNING),
        ({"fence_held": True}, Candidacy.FENCED),
        ({"fenced": True}, Candidacy.NOT_RUNNING),
    ],
)
def test_why_a_standby_is_not_promotable(change: dict[str, object], expected: Candidacy) -> None:
    world = healthy()
    report = world.observe().nodes["b"]
    assert report is not None
    changed = msgspec.structs.replace(report, **change)
    assert candidacy(world.store, "b", changed, POLICY) is expected


def test_commands_need_the_right_term() -> None:
    world = healthy()
    _, decision = decide(world.store, observed(world, ask(CommandKind.SWITCHOVER, term=9)), POLICY)
    assert [reply.status for reply in decision.replies] == [409]
    _, decision = decide(world.store, observed(world, ask(CommandKind.FENCE, node="z")), POLICY)
    assert [reply.status for reply in decision.replies] == [422]


def test_a_switchover_ends_with_the_former_as_a_standby_and_nothing_lost() -> None:
    world = healthy()
    world.store, decision = decide(world.store, observed(world, ask(CommandKind.SWITCHOVER)), POLICY)
    assert [reply.status for reply in decision.replies] == [202]
    world.in_flight += [(world.now_ms, action) for action in decision.actions]
    for _ in range(2000):
        world.step()
        if world.store.primary == "b" and world.is_settled():
            break
    assert world.is_settled()
    assert "standby.rebuild" not in world.kinds[world.kinds.index("switchover.stopped") :]
    world.check_nothing_lost(world.nodes["b"])
    world.check_eligible(world.nodes, world.store)


def test_pause_holds_promotions_and_ends_by_itself() -> None:
    world = healthy()
    world.store, decision = decide(world.store, observed(world, ask(CommandKind.PAUSE, for_ms=1000)), POLICY)
    assert [reply.status for reply in decision.replies] == [202]
    world.nodes["a"].die()
    assert decide(world.store, world.observe(), POLICY)[1].actions == ()
    later = msgspec.structs.replace(world.observe(), now_ms=world.now_ms + 1001)
    assert decide(world.store, later, POLICY)[1].kind == "failover.begin"


def test_a_comparison_that_never_succeeds_is_tried_again_and_told_to_a_person() -> None:
    world = healthy()
    world.nodes["b"].die()
    world.nodes["a"].die()
    state, seen = world.store, world.observe()
    alarmed_ms = None
    for elapsed_ms in range(0, 20_000, 250):
        a = seen.nodes["a"]
        assert a is not None
        pending = state.nodes["a"].pending
        if pending is not None:  # the agent did it, and the peer could not tell where its WAL ends
            compared = WalComparison(
                pending.revision,
                Comparison.UNREADABLE,
                "b could not tell",
                peer_incarnation=seen.nodes["b"].incarnation,
            )
            result = ActionResult(pending.revision, "compare_wal", True, "b could not tell")
            a = msgspec.structs.replace(a, revision=pending.revision, comparison=compared, results=(result,))
        seen = msgspec.structs.replace(seen, nodes={**seen.nodes, "a": a}, now_ms=world.now_ms + elapsed_ms)
        state, decision = decide(state, seen, POLICY)
        assert not any(isinstance(action.op, StartPrimary | Promote) for action in decision.actions)
        if alarmed_ms is None and any("cannot be compared" in alarm.sentence for alarm in state.alarms):
            alarmed_ms = elapsed_ms
    assert alarmed_ms is not None
    assert POLICY.peer_alarm_ms <= alarmed_ms < POLICY.peer_alarm_ms + 5_000


def test_observe_only_decides_but_never_acts() -> None:
    world = healthy()
    world.nodes["a"].die()
    _, decision = decide(world.store, world.observe(), msgspec.structs.replace(POLICY, observe_only=True))
    assert decision.kind == "failover.begin"
    assert decision.actions == ()


def test_terms_and_revisions_never_fall() -> None:
    with pytest.raises(InvariantViolation):
        check_step(State(term=2, revision=5), State(term=1, revision=6))
    with pytest.raises(InvariantViolation):
        check_step(State(term=2, revision=5), State(term=2, revision=4))


def test_shrink_waits_for_a_primary_that_is_proved_well() -> None:
    world = healthy()
    report = world.observe().nodes["a"]
    assert report is not None
    assert isinstance(report.walsenders[0], Walsender)
    lost = msgspec.structs.replace(report, walsenders=())
    sick = msgspec.structs.replace(lost, disk=Probe(False, 10, 1, error="EIO"))
    state = world.store
    for now_ms in (0, 1_500):
        at = msgspec.structs.replace(observed(world, a=sick), now_ms=world.now_ms + now_ms)
        state, decision = decide(state, at, POLICY)
        assert decision.kind != "standby.shrink"
    at = msgspec.structs.replace(observed(world, a=lost), now_ms=world.now_ms + 1_600)
    state, decision = decide(state, at, POLICY)
    assert decision.kind == "standby.shrink"
    assert not state.nodes["b"].eligible
