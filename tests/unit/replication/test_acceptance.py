"""Every refusal of an action, and that nothing else is refused."""

from __future__ import annotations

from typing import Any

import pytest

from replication import actions
from replication.acceptance import Situation, is_final, refusal
from replication.actions import Action, Op, Refusal
from replication.model import DataDirectory, Role, Stage
from replication.state_dir import AgentState

BOOT = "boot-1"
INCARNATION = "4711:99"


def situation(**changed: Any) -> Situation:
    fields: dict[str, Any] = {
        "node": "a", "boot_id": BOOT, "clock_ms": 10_000, "action_ttl_ms": 2_000, "running": False,
        "incarnation": INCARNATION, "data": DataDirectory.PRESENT, "doing": None, **changed,
    }  # fmt: skip
    return Situation(**fields)


def action(op: Op, **changed: Any) -> Action:
    fields: dict[str, Any] = {
        "node": "a", "term": 3, "revision": 8, "boot_id": BOOT, "observed_clock_ms": 9_500, **changed,
    }  # fmt: skip
    return Action(op=op, **fields)


STATE = AgentState(term=3, revision=7)
PRIMARY = AgentState(term=3, revision=7, configured_role=Role.PRIMARY, stage=Stage.CLOSED)
STANDBY = AgentState(term=3, revision=7, configured_role=Role.STANDBY)


def refused(op: Op, state: AgentState, now: Situation, **changed: Any) -> Refusal | None:
    answer = refusal(action(op, **changed), state, now)
    return None if answer is None else answer.refused


def test_a_fitting_action_is_accepted() -> None:
    assert refused(actions.StartPrimary(), STATE, situation()) is None


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"node": "b"}, Refusal.OTHER_NODE),
        ({"boot_id": "boot-0"}, Refusal.OTHER_BOOT),
        ({"term": 2}, Refusal.LOWER_TERM),
        ({"revision": 7}, Refusal.STALE_REVISION),
        ({"revision": 6}, Refusal.STALE_REVISION),
        ({"revision": 7, "term": 4}, Refusal.STALE_REVISION),
        ({"observed_clock_ms": 7_999}, Refusal.TOO_LATE),
        ({"observed_clock_ms": 10_001}, Refusal.TOO_LATE),
    ],
)
def test_an_action_for_somebody_or_sometime_else(changed: dict[str, Any], word: Refusal) -> None:
    assert refused(actions.StartPrimary(), STATE, situation(), **changed) is word
    assert refused(actions.Fence(), STATE, situation(), **changed) is word


def test_exactly_the_time_to_live_is_still_accepted() -> None:
    assert refused(actions.StartPrimary(), STATE, situation(), observed_clock_ms=8_000) is None


def test_a_higher_term_is_accepted() -> None:
    assert refused(actions.StartPrimary(), STATE, situation(), term=4) is None


def test_while_one_runs_only_a_fence_is_accepted() -> None:
    busy = situation(running=True, doing="grow")
    assert refused(actions.SetNames((), INCARNATION), PRIMARY, busy) is Refusal.BUSY
    assert refused(actions.Fence(), PRIMARY, busy) is None


@pytest.mark.parametrize("op", [actions.StartPrimary(), actions.StartStandby("b_g1", "a"), actions.InitDb()])
def test_a_held_fence_refuses_every_start(op: Op) -> None:
    held = AgentState(term=3, revision=7, fence_held=True)
    assert refused(op, held, situation(data=DataDirectory.EMPTY)) is Refusal.FENCE_HELD
    assert refused(actions.Unfence(), held, situation()) is None


@pytest.mark.parametrize(
    "op",
    [
        actions.SetStage(Stage.OPEN, "4711:98"),
        actions.SetNames(("b_g1",), "4711:98"),
        actions.ApplySchema("4711:98"),
        actions.Grow("b_g1", "b", "4711:98", "1:1"),
        actions.Stop(1_000, "4711:98"),
        actions.Checkpoint("4711:98"),
    ],
)
def test_an_action_for_another_start_is_refused(op: Op) -> None:
    assert refused(op, PRIMARY, situation(running=True)) is Refusal.WRONG_STATE


@pytest.mark.parametrize(
    "op",
    [
        actions.InitDb(),
        actions.StartPrimary(),
        actions.StartStandby("b_g1", "a"),
        actions.CompareWal("b"),
        actions.Rebuild("b", "locum_a", "n"),
    ],
)
def test_what_needs_a_stopped_node_is_refused_on_a_running_one(op: Op) -> None:
    assert refused(op, PRIMARY, situation(running=True)) is Refusal.WRONG_STATE


@pytest.mark.parametrize(
    ("op", "data", "accepted"),
    [
        (actions.InitDb(), DataDirectory.EMPTY, True),
        (actions.InitDb(), DataDirectory.PRESENT, False),
        (actions.InitDb(), DataDirectory.HALF_BUILT, False),
        (actions.StartPrimary(), DataDirectory.EMPTY, False),
        (actions.StartPrimary(), DataDirectory.HALF_BUILT, False),
        (actions.StartStandby("b_g1", None), DataDirectory.HALF_BUILT, False),
        (actions.Rebuild("b", "locum_a", "n"), DataDirectory.HALF_BUILT, True),
        (actions.Rebuild("b", "locum_a", "n"), DataDirectory.EMPTY, True),
        (actions.Rebuild("b", "locum_a", "n"), DataDirectory.FOREIGN, False),
        (actions.InitDb(), DataDirectory.FOREIGN, False),
    ],
)
def test_the_data_directory_decides_what_may_be_made_of_it(op: Op, data: DataDirectory, accepted: bool) -> None:
    assert (refused(op, STATE, situation(data=data)) is None) is accepted


def test_roles() -> None:
    up = situation(running=True)
    assert refused(actions.Promote(), PRIMARY, up) is Refusal.WRONG_STATE
    assert refused(actions.Promote(), STANDBY, up) is None
    assert refused(actions.Certify(1), STANDBY, up) is None
    assert refused(actions.SetNames((), INCARNATION), STANDBY, up) is Refusal.WRONG_STATE
    assert refused(actions.Promote(), STANDBY, situation()) is Refusal.WRONG_STATE


@pytest.mark.parametrize(
    ("now", "wanted", "accepted"),
    [
        (Stage.CLOSED, Stage.REPLICATING, True),
        (Stage.CLOSED, Stage.OPEN, True),
        (Stage.REPLICATING, Stage.OPEN, True),
        (Stage.OPEN, Stage.OPEN, True),
        (Stage.OPEN, Stage.REPLICATING, False),
        (Stage.REPLICATING, Stage.CLOSED, False),
        (Stage.CLOSED, Stage.CLOSED, False),
    ],
)
def test_stages_only_go_forward(now: Stage, wanted: Stage, accepted: bool) -> None:
    state = AgentState(term=3, revision=7, configured_role=Role.PRIMARY, stage=now)
    answer = refused(actions.SetStage(wanted, INCARNATION), state, situation(running=True))
    assert (answer is None) is accepted


def test_the_schema_is_applied_only_while_closed() -> None:
    opened = AgentState(term=3, revision=7, configured_role=Role.PRIMARY, stage=Stage.OPEN)
    assert refused(actions.ApplySchema(INCARNATION), PRIMARY, situation(running=True)) is None
    assert refused(actions.ApplySchema(INCARNATION), opened, situation(running=True)) is Refusal.WRONG_STATE


def test_what_was_refused_for_what_was_found_is_not_accepted_from_a_second_copy() -> None:
    start = action(actions.StartPrimary(), revision=8)
    busy = refusal(start, STATE, situation(doing="rebuild"))
    assert busy is not None
    assert is_final(busy)
    assert refusal(start, STATE, situation()) is None
    again = refusal(start, STATE, situation(refused_revision=8))
    assert again is not None
    assert again.refused is Refusal.STALE_REVISION
    assert refusal(action(actions.StartPrimary(), revision=9), STATE, situation(refused_revision=8)) is None
    late = refusal(action(actions.StartPrimary(), observed_clock_ms=1), STATE, situation())
    assert late is not None
    assert not is_final(late)
