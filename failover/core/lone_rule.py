"""The lone rule: when a primary that nobody can be compared with may open nevertheless (DESIGN section 4). Pure.

Either its agent stopped it cleanly and pg_control still says so; or its WAL, read before the start, reaches everything
that was ever seen of it, and every write that a server has acknowledged is found in it.
"""

from __future__ import annotations

from failover.core.context import Context
from failover.core.model import NodeRecord, State
from replication.model import Comparison, NodeReport, ReceiptsFound, WalComparison, format_lsn

_SHUTDOWN_RECORD_BYTES_MAX = 8_192


def was_stopped_whole(context: Context, name: str, report: NodeReport) -> bool:
    """It was stopped by its agent, pg_control still says so, and its WAL reaches everything that was ever seen.

    No receipts are needed: nothing was acknowledged after the stop.
    """
    stop, record = report.planned_stop, context.record(name)
    if stop is None or not stop.intact:
        return False
    timeline = context.state.history[-1].timeline if context.state.history else None
    if timeline is not None and stop.timeline != timeline:
        return False
    seen = [record.confirmed_flush_lsn if record.confirmed_timeline == stop.timeline else None]
    seen += [
        context.record(other).confirmed_flush_lsn
        for other in context.others(name)
        if context.record(other).confirmed_timeline == stop.timeline
    ]
    if report.last_observed_timeline == stop.timeline:
        seen.append(report.last_observed_flush_lsn)
    # A shutdown checkpoint record follows whatever was flushed before it.
    return all(lsn is None or lsn <= stop.checkpoint_lsn + _SHUTDOWN_RECORD_BYTES_MAX for lsn in seen)


def own_end(record: NodeRecord, report: NodeReport) -> WalComparison | None:
    """The reading of its own end of WAL that was asked for last, if that is what it was."""
    found = report.comparison
    if found is None or found.revision != record.compared_revision:
        return None
    return found if found.outcome in (Comparison.ALONE, Comparison.EQUAL) else None


def why_end_is_short(
    state: State, name: str, end_lsn: int | None, timeline: int | None, report: NodeReport
) -> str | None:
    """Why the end of its WAL, read before the start, shows that something is missing; None when it reaches everything
    that the store and its agent have seen. An LSN of another timeline says nothing."""
    if end_lsn is None or timeline is None:
        return "where its WAL ends could not be read"
    last = state.history[-1] if state.history else None
    if last is not None and last.timeline is not None and timeline != last.timeline:
        return f"its WAL ends on timeline {timeline}, and term {last.term} is on {last.timeline}"
    seen = {"the end-of-promotion record": last.fork_lsn if last is not None else None}
    for other in sorted(state.nodes):
        record = state.nodes[other]
        if record.confirmed_timeline == timeline:
            seen[f"what {other} has confirmed"] = record.confirmed_flush_lsn
    if report.last_observed_timeline == timeline:
        seen["what its agent has seen"] = report.last_observed_flush_lsn
    for what, lsn in seen.items():
        if lsn is not None and lsn > end_lsn:
            return f"its WAL ends at {format_lsn(end_lsn)}, below {format_lsn(lsn)}, {what}"
    return None


def why_receipts_forbid(end_lsn: int | None, found: ReceiptsFound) -> str | None:
    """Why the servers' receipts show that something is missing; None when all of it is there."""
    if found.present < found.acknowledged:
        listed = ", ".join(found.missing)
        return (
            f"{found.acknowledged - found.present} of {found.acknowledged} acknowledged writes are missing ({listed})"
        )
    if end_lsn is None or found.highest_lsn > end_lsn:
        return f"a write was acknowledged at {format_lsn(found.highest_lsn)}, above the end of its WAL"
    return None


def receipts_found(record: NodeRecord, report: NodeReport) -> ReceiptsFound | None:
    """The comparison with the servers' receipts that was made on this very start."""
    found = report.receipts_found
    if found is None or found.revision != record.receipts_revision or found.incarnation != report.incarnation:
        return None
    return found
