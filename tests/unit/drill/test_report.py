"""Reports: what a person files, what a pipeline reads, and when the exit code says that all is well."""

from __future__ import annotations

from xml.etree import ElementTree

import msgspec
import pytest

from failover.drill import report
from failover.drill.judge import Result
from failover.drill.runner import Report
from failover.drill.scenario import shipped
from tests.unit.drill.test_judge import GOOD

SCENARIO = shipped()[0]


def made(result: Result, *said: str) -> Report:
    return Report(
        scenario=SCENARIO,
        seed=7,
        began_at="2026-01-01T00:00:00+00:00",
        took_s=12.5,
        result=result,
        said=said,
        injected=("SIGKILL to postgres primary, 16 processes",),
        measured=GOOD if result in (Result.PASSED, Result.FAILED) else None,
        timeline=((0.5, "starting"),),
    )


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([Result.PASSED], 0),
        ([Result.PASSED, Result.SKIPPED], 0),
        ([Result.SKIPPED], 1),
        ([Result.PASSED, Result.FAILED], 1),
        ([Result.PASSED, Result.UNKNOWN], 1),
        ([], 1),
    ],
)
def test_only_what_ran_and_held_is_a_success(results: list[Result], code: int) -> None:
    assert report.exit_code([made(result) for result in results]) == code


def test_the_record_of_the_exercise_holds_what_an_auditor_asks_for() -> None:
    text = report.as_markdown([made(Result.FAILED, "it took too long"), made(Result.SKIPPED, "needs FUSE")])
    for wanted in ("Scope:", "Objective:", "seed 7", "recovery point", "recovery time", "SIGKILL to postgres primary",
                   "it took too long", "needs FUSE", "Corrective actions:", "1 failed, 1 skipped"):  # fmt: skip
        assert wanted in text, wanted


def test_a_pipeline_tells_failures_errors_and_skips_apart() -> None:
    reports = [made(result, "why") for result in Result]
    suite = ElementTree.fromstring(report.as_junit(reports))  # noqa: S314  its own words
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors"), suite.get("skipped")) == (
        "4",
        "1",
        "1",
        "1",
    )
    assert [child.tag for case in suite for child in case] == ["failure", "error", "skipped"]


def test_the_json_can_be_read_again() -> None:
    reports = [made(Result.PASSED)]
    assert msgspec.json.decode(report.as_json(reports), type=list[Report]) == reports
