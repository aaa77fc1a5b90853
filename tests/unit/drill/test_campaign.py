"""Campaigns: the seed decides, every class has its turn, and the matrix hides nothing."""

from __future__ import annotations

import msgspec

from failover.drill.campaign import CLASSES, campaign, matrix
from failover.drill.checker import Finding, Kind
from failover.drill.judge import Result
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
            measured=msgspec.structs.replace(GOOD, verdicts=()),
            findings=(lost, lost),
        ),
    ]
    (row,) = matrix(reports)
    assert row == ("kill", "1", "1", "", "", "none 1, process_dead 1", "lost 2")
