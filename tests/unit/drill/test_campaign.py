"""Campaigns: the seed decides, every class has its turn, and the matrix hides nothing."""

from __future__ import annotations

import msgspec

from failover.drill.campaign import CLASSES, PROCESS_CLASSES, campaign
from failover.drill.checker import Finding, Kind
from failover.drill.judge import Result
from failover.drill.matrix import confusion, matrix, undetected
from failover.drill.runner import Report
from failover.drill.scenario import checked
from tests.unit.drill.test_judge import GOOD
from tests.unit.drill.test_report import made


def test_the_same_seed_draws_the_same_faults_and_another_one_does_not() -> None:
    assert campaign(1, 60) == campaign(1, 60)
    assert campaign(1, 60) != campaign(2, 60)
    assert campaign(1, 30) == campaign(1, 60)[:30], "a longer campaign goes on where a shorter one ended"


def test_every_class_has_its_turn_before_any_has_its_second() -> None:
    first = [scenario.name.partition(" ")[2] for scenario in campaign(5, len(CLASSES))]
    assert sorted(first) == sorted(CLASSES)


def test_every_fault_that_is_drawn_makes_sense() -> None:
    for scenario in campaign(7, 300):
        assert checked(scenario) == scenario
        assert msgspec.json.decode(msgspec.json.encode(scenario), type=type(scenario)) == scenario


def test_the_matrix_shows_failures_and_what_was_broken() -> None:
    good, bad = made(Result.PASSED), made(Result.FAILED, "it is gone")
    lost = Finding(Kind.LOST, "id1", "it is gone")
    reports = [
        msgspec.structs.replace(good, scenario=msgspec.structs.replace(good.scenario, name="000 kill")),
        msgspec.structs.replace(
            bad,
            scenario=msgspec.structs.replace(bad.scenario, name="001 kill"),
            measured=msgspec.structs.replace(GOOD, verdicts=(), named_after_s=None),
            findings=(lost, lost),
        ),
    ]
    (row,) = matrix(reports)
    assert row == ("kill", "1", "1", "", "", "none 1, process_dead 1", "-", "lost 2")


def named(name: str, *verdicts: str, after_s: float | None = None, suspected_s: float | None = None) -> Report:
    report = made(Result.PASSED)
    measured = msgspec.structs.replace(GOOD, verdicts=verdicts, named_after_s=after_s, suspected_after_s=suspected_s)
    return msgspec.structs.replace(
        report, scenario=msgspec.structs.replace(report.scenario, name=name), measured=measured
    )


def test_times_to_the_verdict_and_wrong_names_are_shown() -> None:
    reports = [
        named("000 stale page", "stale_page", after_s=1.0),
        named("001 stale page", "unreachable", after_s=4.0),
        named("002 stale page"),
        named("003 stale page", suspected_s=3.0),
        named("004 path cut", "storage_error"),
        named("005 path cut", "unreachable"),
        named("006 path cut"),
    ]
    assert [row[6] for row in matrix(reports)] == ["-", "2.5, 4.0"]
    given, right, wrong = confusion(reports)
    assert (given, right, len(wrong)) == (4, 2, 2)
    assert [line.partition(":")[0] for line in undetected(reports)] == ["002 stale page"]
    assert set(CLASSES) >= PROCESS_CLASSES


def test_a_full_disk_may_refuse_bookings_for_a_short_while_and_nothing_else_may() -> None:
    for scenario in campaign(26, len(CLASSES)):
        expect, is_full = scenario.expect, scenario.name.endswith(" disk full")
        assert (expect.failed_max > 0) is is_full
        assert not is_full or 0 < expect.named_within_s < expect.gap_ms_max / 1000
