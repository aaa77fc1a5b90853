"""Alarms: derived each round, told once when they begin and once when they are over."""

from __future__ import annotations

import msgspec

from failover.alarms import AlarmBook, Standing, standing
from failover.core.model import Alarm, Observation, SeenServer, Silence
from replication.model import Fault, FaultKind, ServerReport
from replication.topology import Phase
from tests.integration.failover.scripted import HEALTHY, primary_report, standby_report

SEEN = Observation(now_ms=0, at="T", nodes={"a": primary_report(), "b": standby_report()})


def names(found: list[Standing]) -> list[str]:
    return [cause.name for cause in found]


def test_a_healthy_cluster_has_none() -> None:
    assert standing(HEALTHY, SEEN, Phase.HEALTHY) == []


def test_causes() -> None:
    alarm = Alarm("no_primary", "T", "nothing is open")
    state = msgspec.structs.replace(HEALTHY, alarms=(alarm,))
    fault = Fault(FaultKind.STORAGE_ERROR, 1.0, "T", "EIO on fsync")
    ill = msgspec.structs.replace(standby_report(), faults=(fault,))
    seen = msgspec.structs.replace(SEEN, nodes={"a": None, "b": ill}, silence={"a": Silence.REFUSED})
    found = standing(state, seen, Phase.NO_PRIMARY)
    assert names(found) == ["no_primary", "agent_silent.a", "fault.b.storage_error"]
    assert found[2].sentence == "EIO on fsync"
    assert names(standing(HEALTHY, SEEN, Phase.DEGRADED)) == ["degraded"]


def test_a_durability_that_somebody_lowered_is_an_alarm_of_the_primary() -> None:
    lowered = msgspec.structs.replace(primary_report(), commit_overrides=("role app synchronous_commit=off",))
    seen = msgspec.structs.replace(SEEN, nodes={"a": lowered, "b": standby_report()})
    (cause,) = standing(HEALTHY, seen, Phase.HEALTHY)
    assert cause.name == "commit_overrides"
    assert "role app synchronous_commit=off" in cause.sentence
    seen = msgspec.structs.replace(SEEN, nodes={"a": primary_report(), "b": lowered})
    assert standing(HEALTHY, seen, Phase.HEALTHY) == []


def test_a_server_whose_writes_do_not_return_while_the_primary_answers_its_agent_is_cut_off() -> None:
    report = ServerReport(server="s1", term=HEALTHY.term, phase="healthy", primary="a", writes_failing_ms=1_200)
    cut_off = SeenServer(report, 100)
    seen = msgspec.structs.replace(SEEN, servers=(cut_off,))
    (cause,) = standing(HEALTHY, seen, Phase.HEALTHY)
    assert cause.name == "server_cut_off.s1"
    assert "look at the network between it and a" in cause.sentence
    silent = msgspec.structs.replace(seen, nodes={**seen.nodes, "a": None}, silence={"a": Silence.TIMEOUT})
    assert names(standing(HEALTHY, silent, Phase.HEALTHY)) == ["agent_silent.a"]
    for other in (SeenServer(report, 10_000), SeenServer(msgspec.structs.replace(report, term=HEALTHY.term + 1), 100)):
        assert standing(HEALTHY, msgspec.structs.replace(SEEN, servers=(other,)), Phase.HEALTHY) == []


def test_writes_that_wait_for_a_disk_or_for_the_standby_do_not_point_to_the_network() -> None:
    report = ServerReport(server="s1", term=HEALTHY.term, phase="healthy", primary="a", writes_failing_ms=1_200)
    seen = msgspec.structs.replace(SEEN, servers=(SeenServer(report, 100),))
    stalled = Fault(FaultKind.STORAGE_STALLED, 0.9, "T", "it does not finish a block")
    for changed in ({"commit_waiting_ms": 1_100}, {"faults": (stalled,)}):
        nodes = {**seen.nodes, "a": msgspec.structs.replace(primary_report(), **changed)}
        found = standing(HEALTHY, msgspec.structs.replace(seen, nodes=nodes), Phase.HEALTHY)
        assert "server_cut_off.s1" not in names(found)


def test_the_cores_own_alarm_on_a_missing_standby_is_enough() -> None:
    state = msgspec.structs.replace(HEALTHY, alarms=(Alarm("no_standby", "T", "nothing may be promoted"),))
    assert names(standing(state, SEEN, Phase.DEGRADED)) == ["no_standby"]


def test_an_alarm_is_told_once_and_cleared_once() -> None:
    book = AlarmBook()
    cause = Standing("fault.b.storage_full", "full")
    assert [(change.state, change.since) for change in book.update([cause], 100, "T1")] == [("raised", "T1")]
    assert book.update([cause], 200, "T2") == []
    assert book.raised == (Alarm("fault.b.storage_full", "T1", "full"),)
    assert [change.state for change in book.update([], 300, "T3")] == ["cleared"]
    assert book.raised == ()
    assert [(change.state, change.since) for change in book.update([cause], 400, "T4")] == [("raised", "T4")]


def test_patience_starts_over_when_the_cause_goes_away() -> None:
    book, cause = AlarmBook(), Standing("agent_silent.a", "silent", 3_000)
    assert book.update([cause], 0, "T0") == []
    assert book.update([], 2_000, "T2") == []
    assert book.update([cause], 2_500, "T2.5") == []
    assert book.update([cause], 5_000, "T5") == []
    [change] = book.update([cause], 5_500, "T5.5")
    assert (change.state, change.since) == ("raised", "T2.5")


def test_a_new_sentence_is_shown_but_not_told_again() -> None:
    book = AlarmBook()
    book.update([Standing("x", "one")], 0, "T0")
    assert book.update([Standing("x", "two")], 1, "T1") == []
    assert book.raised == (Alarm("x", "T0", "two"),)
