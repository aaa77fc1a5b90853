"""Which verdicts are right for which class of faults, and whom they may name. Pure.

A fault shows itself in more than one way: a page that was written elsewhere is found as the stale page that it left, or as the
foreign page that it made. So a class has several right kinds; but a disk is never "the network", nor a cut path "the disk".
"""

from __future__ import annotations

from failover.drill.campaign import CLASSES, class_of
from failover.drill.runner import Report
from failover.drill.scenario import Disk, Files, Node

_LOST = frozenset({"lost_write", "stale_page", "row_missing", "wal_corrupt", "wal_lost", "page_corrupt", "diverged"})
_WRONG_BYTES = frozenset(
    {"page_corrupt", "index_corrupt", "wal_corrupt", "control_corrupt", "seal_mismatch", "vm_corrupt"}
)
_PROBED = frozenset({"storage_error"})
"""The agent's own probe of that disk read back other bytes than it wrote."""
_REPLAYED = frozenset({"redo_failed"})
"""A standby met it when it replayed what comes next."""
_DEAD = frozenset({"process_dead"})
_SILENT = frozenset({"unresponsive", "process_dead"})

RIGHT: dict[str, frozenset[str]] = {
    "kill": _DEAD,
    "kill of one process": _DEAD,
    "stop of one process": _SILENT,
    "stop": _SILENT,
    "host killed": _DEAD,
    "host hangs": _SILENT,
    "two failures": _DEAD,
    "switchover": frozenset(),
    "path cut": frozenset({"unreachable", "unresponsive"}),
    "disk error on read": frozenset({"storage_error"}),
    "disk error on write": frozenset({"storage_error"}),
    "disk error on fsync": frozenset({"storage_error"}),
    "disk stalls": frozenset({"storage_stalled", "storage_error"}),
    "disk is slow": frozenset({"overload"}),
    "disk full": frozenset({"storage_full"}),
    "disk read-only": frozenset({"read_only"}),
    "disk vanishes": frozenset({"storage_error", "read_only"}),
    "bit flip on read": _WRONG_BYTES,
    "bit flip on write": _WRONG_BYTES | _PROBED | _REPLAYED,
    "torn write": _WRONG_BYTES | _LOST | _PROBED | _REPLAYED,
    "lost write": _LOST | _PROBED | _REPLAYED | {"vm_corrupt", "index_corrupt", "control_corrupt"},
    "fsync lies": frozenset({"storage_error"}),
    "power lost": _DEAD | {"wal_lost"},
    "misdirected write": _LOST | _WRONG_BYTES | _PROBED | _REPLAYED | {"misdirected_write"},
    "WAL tail lost": frozenset({"wal_lost", "process_dead"}),
    "clock jump": frozenset(),
    "damaged page": _REPLAYED | {"page_corrupt"},
    "zeroed page": frozenset({"row_missing", "page_corrupt", "stale_page", "lost_write"}),
    "stale page": frozenset({"stale_page", "lost_write", "row_missing"}),
    "second write lost": _LOST,
    "misdirected page": frozenset(
        {
            "misdirected_write",
            "stale_page",
            "lost_write",
            "index_corrupt",
            "page_corrupt",
            "row_missing",
            "seal_mismatch",
        }
    ),
    "altered row": frozenset(
        {"seal_mismatch", "page_corrupt", "index_corrupt", "diverged", "stale_page", "row_missing"}
    ),
    "altered index entry": frozenset({"index_corrupt", "row_missing", "diverged"}),
    "damaged long value": frozenset({"page_corrupt", "diverged", "stale_page"}),
    "stale visibility map": frozenset({"vm_corrupt", "stale_page", "lost_write"}),
    "damaged free space map": frozenset({"page_corrupt"}),
    "file cut or gone": _REPLAYED | {"page_corrupt"},
    "damaged pg_xact": frozenset({"control_corrupt", "page_corrupt", "redo_failed", "row_missing", "storage_error"}),
    "damaged pg_control": frozenset({"control_corrupt"}),
    "damaged WAL": frozenset({"wal_corrupt"}),
    "bit in memory": frozenset({"seal_mismatch", "page_corrupt", "index_corrupt", "row_missing"}),
}
"""By class: kinds of verdicts. A class without any is no fault, and whatever is named is wrong."""

_GUILTY = frozenset(
    {
        "stale page",
        "misdirected page",
        "second write lost",
        "lost write",
        "misdirected write",
        "zeroed page",
        "damaged page",
    }
)
"""Where a healthy node looks as bad as the sick one: the verdict must name the one that was struck."""


def wrong_verdicts(report: Report) -> list[str]:
    """A sentence for each verdict of a campaign's fault that is not right."""
    name = class_of(report)
    if report.measured is None or name not in CLASSES:
        return []
    struck = _struck(report)
    wrong = [f"{report.scenario.name}: named {kind}" for kind in report.measured.verdicts if kind not in RIGHT[name]]
    unjust = [
        f"{report.scenario.name}: {kind} named the {blamed}, which is well"
        for kind, blamed in report.measured.blamed
        if name in _GUILTY and blamed not in struck
    ]
    return wrong + unjust


def _struck(report: Report) -> set[Node]:
    return {step.node for step in report.scenario.steps if isinstance(step, Disk | Files)}
