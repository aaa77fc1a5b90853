"""What became of the faults of a campaign, class by class, and whether they were given their right name. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import median

from failover.drill.campaign import STORAGE_CLASSES, class_of
from failover.drill.judge import Result
from failover.drill.runner import Report
from failover.drill.truth import wrong_verdicts

_SLOW = "disk is slow"
"""No fault: slow is not to be called one."""
COLUMNS = ("class", *(result.value for result in Result), "verdicts", "named after s (median, max)", "broken promises")


def matrix(reports: Sequence[Report]) -> list[tuple[str, ...]]:
    """A row for each class: how its faults ended, what was named and after how long, and which promises were broken."""
    rows = []
    for name, own in sorted(_by_class(reports).items()):
        results = Counter(report.result for report in own)
        named = Counter(verdict for report in own for verdict in _verdicts(report))
        broken = Counter(finding.kind.value for report in own for finding in report.findings)
        counts = (str(results[result] or "") for result in Result)
        rows.append((name, *counts, _counted(named), _times(own), _counted(broken)))
    return rows


def confusion(reports: Sequence[Report]) -> tuple[int, int, list[str]]:
    """(verdicts given, of them right, a sentence for each wrong one), by `truth`. Where nothing was named there is no verdict;
    the matrix shows how often."""
    wrong = [said for report in reports for said in wrong_verdicts(report)]
    given = sum(len(report.measured.verdicts) for report in reports if report.measured is not None)
    return given, given - len(wrong), wrong


def undetected(reports: Sequence[Report]) -> list[str]:
    """Faults of a disk or of content that fired, of which something is left, and that nothing named, nor any alarm spoke of."""
    return [
        f"{report.scenario.name}: {', '.join(report.injected)}"
        for report in reports
        if class_of(report) in STORAGE_CLASSES - {_SLOW}
        and report.measured is not None
        and not report.healed
        and not report.measured.verdicts
        and report.measured.suspected_after_s is None
    ]


def _by_class(reports: Iterable[Report]) -> dict[str, list[Report]]:
    found: dict[str, list[Report]] = defaultdict(list)
    for report in reports:
        found[class_of(report)].append(report)
    return found


def _verdicts(report: Report) -> tuple[str, ...]:
    if report.measured is None:
        return ()
    if report.measured.verdicts:
        return report.measured.verdicts
    if report.healed:
        return ("healed",)
    return ("suspected",) if report.measured.suspected_after_s is not None else ("none",)


def _times(reports: Sequence[Report]) -> str:
    times = [report.measured.named_after_s for report in reports if report.measured is not None]
    known = [seconds for seconds in times if seconds is not None]
    return f"{median(known):.1f}, {max(known):.1f}" if known else "-"


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))
