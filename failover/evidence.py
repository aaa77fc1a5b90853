"""What servers report: the newest report of each, with its age (`POST /v1/evidence`)."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from failover.core.model import SeenServer
from replication.model import ServerReport

_FORGET_MS = 30_000


class ServersSeen:
    """In memory only: after a controller's restart every server reports again within a second."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._reports: dict[str, tuple[ServerReport, float]] = {}

    def note(self, report: ServerReport) -> bool:
        """Keep it; True when it says something new that the core should see at once."""
        known = self._reports.get(report.server)
        self._reports[report.server] = (report, self._monotonic())
        return known is None or _matters(known[0]) != _matters(report) or report.writes_failing_ms is not None

    def seen(self) -> tuple[SeenServer, ...]:
        """The newest report of each server heard from in the last 30 s."""
        now = self._monotonic()
        found = []
        for name in sorted(self._reports):
            report, at = self._reports[name]
            age_ms = int((now - at) * 1000)
            if age_ms <= _FORGET_MS:
                found.append(SeenServer(report, age_ms))
            else:
                del self._reports[name]
        return tuple(found)


def _matters(report: ServerReport) -> tuple[object, ...]:
    drained = report.writes_in_flight == 0
    failing = report.writes_failing_ms is not None
    return (
        report.term,
        report.phase,
        report.primary,
        drained,
        failing,
        report.connect_error,
        report.faults,
        msgspec.structs.replace(report.receipts, began_ms_ago=0) if report.receipts is not None else None,
        report.receipts_problem,
    )
