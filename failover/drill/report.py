"""The report of a drill: a table for the terminal, Markdown and JSON for the file, JUnit for a pipeline. Pure.

What an auditor asks of a recovery test is in the Markdown: scope, objective, what was injected, recovery point and time
against their targets, observations, and the corrective actions, which a person fills in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from xml.etree import ElementTree

import msgspec

from failover.drill.judge import Measured, Result
from failover.drill.runner import Report

COLUMNS = ("scenario", "result", "gap ms", "failed", "lost", "verdict", "healthy again s")


def row(report: Report) -> tuple[str, ...]:
    """One line of the table."""
    measured = report.measured
    if measured is None:
        return report.scenario.name, report.result.value, *("-",) * (len(COLUMNS) - 2)
    return (
        report.scenario.name,
        report.result.value,
        "-" if measured.gap_ms is None else str(measured.gap_ms),
        str(measured.failed),
        str(measured.lost_writes),
        ", ".join(measured.verdicts) or "none",
        "-" if measured.healthy_again_s is None else f"{measured.healthy_again_s:.1f}",
    )


SAID_MAX = 6


def said(report: Report) -> list[str]:
    """What is against it, the first few: the rest is in the report."""
    more = len(report.said) - SAID_MAX
    return [*report.said[:SAID_MAX], *([f"… and {more} more"] if more > 0 else [])]


def summary(reports: Sequence[Report]) -> str:
    """How many ended how."""
    counts = Counter(report.result for report in reports)
    return ", ".join(f"{counts[result]} {result.value}" for result in Result if counts[result])


def exit_code(reports: Sequence[Report]) -> int:
    """0 when all that ran passed, and something ran."""
    ran = [report for report in reports if report.result is not Result.SKIPPED]
    return 0 if ran and all(report.result is Result.PASSED for report in ran) else 1


def as_json(reports: Sequence[Report]) -> bytes:
    """All of it, for a program."""
    return msgspec.json.format(msgspec.json.encode(list(reports)), indent=2) + b"\n"


def as_junit(reports: Sequence[Report]) -> bytes:
    """A test suite with a case for each scenario; one that broke down is an error."""
    suite = ElementTree.Element("testsuite", name="locum drill", tests=str(len(reports)))
    for report in reports:
        case = ElementTree.SubElement(suite, "testcase", name=report.scenario.name, time=f"{report.took_s:.1f}")
        said = "; ".join(report.said)
        tags = {Result.FAILED: "failure", Result.UNKNOWN: "error", Result.SKIPPED: "skipped"}
        if report.result in tags:
            ElementTree.SubElement(case, tags[report.result], message=said)
    counts = Counter(report.result for report in reports)
    suite.set("failures", str(counts[Result.FAILED]))
    suite.set("errors", str(counts[Result.UNKNOWN]))
    suite.set("skipped", str(counts[Result.SKIPPED]))
    made: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return made


def as_markdown(reports: Sequence[Report]) -> str:
    """The record of the exercise."""
    lines = [
        "# Recovery drill",
        "",
        f"Scope: {len(reports)} scenarios on a throw-away cluster of two nodes. Outcome: {summary(reports)}.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
        *(f"| {' | '.join(row(report))} |" for report in reports),
        "",
    ]
    for report in reports:
        lines += _section(report)
    return "\n".join(lines)


def _healthy(measured: Measured) -> str:
    return "not" if measured.healthy_again_s is None else f"{measured.healthy_again_s} s"


def _section(report: Report) -> list[str]:
    expect, measured = report.scenario.expect, report.measured
    lines = [
        f"## {report.scenario.name}: {report.result.value}",
        "",
        f"Objective: {report.scenario.why}",
        "",
        f"Began {report.began_at}, took {report.took_s} s, seed {report.seed}.",
        "",
        "| | target | measured |",
        "|---|---|---|",
    ]
    if measured is None:
        lines += ["| recovery | | not measured |"]
    else:
        gap = "no write came back" if measured.gap_ms is None else f"{measured.gap_ms} ms"
        lines += [
            f"| recovery point (writes lost) | 0 | {measured.lost_writes} |",
            f"| recovery time (no write acknowledged) | {expect.gap_ms_max} ms | {gap} |",
            f"| requests without an answer | {expect.failed_max} | {measured.failed} of {measured.operations} |",
            f"| healthy again | {expect.healthy_within_s:.0f} s | {_healthy(measured)} |",
            f"| verdict | {' or '.join(expect.verdicts) or 'none'} | {', '.join(measured.verdicts) or 'none'} |",
        ]
    lines += ["", "Injected:", "", *(f"- {what}" for what in report.injected or ("nothing",))]
    if report.healed:
        lines += ["", "Written over before anybody read it:", "", *(f"- {what}" for what in report.healed[:SAID_MAX])]
    lines += ["", "Observations:", "", *(f"- {what}" for what in report.said or ("as expected",))]
    lines += ["", "Timeline:", "", *(f"- {at_s:8.3f} s {what}" for at_s, what in report.timeline)]
    return [*lines, "", "Corrective actions: ", ""]
