"""What a decision adds to an incident, and the record that its lines make up."""

from __future__ import annotations

import msgspec

from failover import incidents
from failover.core.model import (
    Decision,
    IncidentEvent,
    Observation,
    SeenServer,
    State,
    Transition,
    TransitionKind,
    Verdict,
)
from replication.actions import Action, Fence, Promote
from replication.model import Cause, FaultKind, ReceiptCheck, ServerReport

VERDICT = Verdict(Cause.PROCESS, FaultKind.PROCESS_DEAD, "a", 1.0, "PostgreSQL of node a is dead.")
PROMOTING = Transition(
    kind=TransitionKind.FAILOVER,
    step="promoting",
    candidate="b",
    former="a",
    began_ms=5_000,
    step_began_ms=5_000,
    incident="i7",
)
OPENED = IncidentEvent(
    incident="i7", at="T1", now_ms=5_000, event="opened", sentence=VERDICT.sentence, node="a", verdict=VERDICT
)


def observation(now_ms: int = 5_000, failing_ms: int | None = None, age_ms: int = 10) -> Observation:
    server = ServerReport(server="s", term=1, phase="healthy", writes_failing_ms=failing_ms)
    return Observation(now_ms=now_ms, at=f"T{now_ms}", nodes={}, servers=(SeenServer(server, age_ms),))


def begin(failing_ms: int | None = None) -> tuple[IncidentEvent, ...]:
    actions = (Action("a", 2, 7, "x", 0, Fence()), Action("b", 2, 7, "y", 0, Promote()))
    decision = Decision(kind="failover.begin", sentence="Promoting b.", actions=actions, incident_events=(OPENED,))
    after = State(incident="i7", transition=PROMOTING)
    return incidents.lines_of(State(), after, decision, observation(failing_ms=failing_ms))


def test_nothing_is_added_while_no_incident_is_open() -> None:
    decision = Decision(kind="standby.grow", sentence="", actions=(Action("a", 1, 1, "x", 0, Fence()),))
    assert incidents.lines_of(State(), State(), decision, observation()) == ()


def test_the_record_of_a_failover() -> None:
    lines = [*begin(), incidents.outage_ended("i7", 5_180, "T5180", "b")]
    rebuild = Decision(kind="standby.rebuild", sentence="Rebuilding a.", actions=(Action("a", 2, 9, "x", 0, Fence()),))
    lines += incidents.lines_of(State(incident="i7"), State(incident="i7"), rebuild, observation(6_000))
    waiting = Decision(kind="failover.wait", sentence="Waiting.")
    assert incidents.lines_of(State(incident="i7"), State(incident="i7"), waiting, observation(6_000)) == ()
    [record] = incidents.build(lines)
    assert (record.id, record.opened_at, record.closed_at, record.node) == ("i7", "T1", None, "a")
    assert record.verdict == VERDICT
    assert record.outage_ms == 180
    assert [line.event for line in record.timeline] == ["opened", "outage.began", "outage.ended", "standby.rebuild"]
    assert [(action.node, action.op, action.revision) for action in record.actions] == [
        ("a", "fence", 7),
        ("b", "promote", 7),
        ("a", "fence", 9),
    ]
    assert set(msgspec.to_builtins(record)) == {
        "id", "opened_at", "closed_at", "node", "verdict", "timeline", "outage_ms", "receipts", "actions",
    }  # fmt: skip


def test_an_outage_begins_when_a_server_saw_it_begin() -> None:
    lines = [*begin(failing_ms=700), incidents.outage_ended("i7", 5_100, "T", "b")]
    [record] = incidents.build(lines)
    assert record.outage_ms == 100 + 700 + 10


def test_an_outage_without_an_end_is_not_a_number() -> None:
    lines = begin()
    assert incidents.has_open_outage(lines)
    [record] = incidents.build(lines)
    assert record.outage_ms is None
    assert not incidents.has_open_outage((*lines, incidents.outage_ended("i7", 5_100, "T", "b")))


def test_a_second_outage_in_the_same_incident_is_added() -> None:
    lines = [*begin(), incidents.outage_ended("i7", 5_100, "T", "b")]
    again = [msgspec.structs.replace(line, now_ms=line.now_ms + 1_000) for line in begin()[1:]]
    assert incidents.has_open_outage((*lines, *again))
    [record] = incidents.build([*lines, *again, incidents.outage_ended("i7", 6_030, "T", "a")])
    assert record.outage_ms == 130


def test_the_newest_comparison_of_receipts_is_in_the_record() -> None:
    checks = [ReceiptCheck(2, 9, 8, lost=1), ReceiptCheck(2, 9, 9)]
    lines = [
        msgspec.structs.replace(OPENED, event="receipts.checked", verdict=None, receipts=check) for check in checks
    ]
    assert incidents.build([OPENED, *lines])[0].receipts == checks[1]
    assert incidents.build([OPENED])[0].receipts is None


def test_closing_and_order() -> None:
    closed = msgspec.structs.replace(OPENED, at="T9", event="closed", verdict=None)
    other = msgspec.structs.replace(OPENED, incident="i9", at="T10")
    found = incidents.build((OPENED, other, closed))
    assert [(record.id, record.closed_at) for record in found] == [("i7", "T9"), ("i9", None)]
