"""A standby whose recovery broke off: it is not touched until it is known whose page is wrong, and when it is the primary's,
it is promoted, up to before the record over which it broke off. Pure.

A primary that read back an old page, or another, goes on writing upon it, and may give a time to two patients. Its standby has the
right page and cannot replay what was made from the wrong one. Nothing was acknowledged after the standby died; what was in the
moment before is in the receipts, and restored from them (DESIGN section 4, receipts).
"""

from __future__ import annotations

from failover.core.candidate import CONTENT_FAULTS, INTEGRITY_FAULTS, has_own_data, is_eligible
from failover.core.context import STOPPED, Context, Plan, standby_name, with_node
from failover.core.diagnose import diagnose_primary
from failover.core.failing_over import begin_failover
from failover.core.model import NodeRecord, Observation, State
from failover.core.receipts import FRESH_SERVER_MS
from replication.model import FaultKind, NodeReport


def note_broken_redo(state: State, observation: Observation) -> State:
    """What a standby's agent says of it; the store keeps it when that agent dies."""
    for name in sorted(state.nodes):
        report, known = observation.nodes.get(name), state.nodes[name]
        if report is None or report.redo_failure is None or report.redo_failure == known.redo_failure:
            continue
        since_ms = known.redo_failed_ms if known.redo_failure is not None else state.now_ms
        state = with_node(state, name, redo_failure=report.redo_failure, redo_failed_ms=since_ms)
    return state


def may_hold_the_good_copy(context: Context, name: str) -> bool:
    """It is not known yet whose page is wrong, or it is the primary's: its data must be left as they are."""
    record = context.record(name)
    failure = record.redo_failure
    if failure is None or not is_eligible(record):
        return False
    if is_blamed_on_primary(context.state, record):
        return True
    return not failure.asked and context.now_ms - record.redo_failed_ms < context.policy.redo_blame_ms


def is_blamed_on_primary(state: State, record: NodeRecord) -> bool:
    """The primary's own page, read there, is not what WAL says; or the primary is convicted for that very block."""
    failure = record.redo_failure
    if failure is None or state.primary is None:
        return False
    if failure.blamed == state.primary:
        return True
    places = [
        place
        for fault in state.nodes[state.primary].faults
        if fault.kind in CONTENT_FAULTS and fault.is_proof
        for place in fault.places
    ]
    return any(
        (place.path, place.block) == (failure.path, failure.block) for place in places if place.block is not None
    )


def replace_primary_that_misread(context: Context) -> Plan | None:
    """Promote the standby up to before that record."""
    if context.state.transition is not None or context.is_paused:
        return None
    verdict = diagnose_primary(context)
    if verdict is None or verdict.kind in context.policy.alarm_only or not _receipts_are_kept(context):
        return None
    for name in context.others(context.state.primary):
        if _can_take_over(context, name):
            plan = begin_failover(context, name, verdict, accepts_loss=True)
            sentence = (
                f"{verdict.sentence} Promoting {name}, up to before the record over which its recovery broke off; "
                "what was acknowledged after it is restored from receipts."
            )
            return Plan("failover.before_record", sentence, plan.state, plan.ops, events=plan.events)
    return None


def may_be_promoted_before_record(before: State, record: NodeRecord, report: NodeReport | None) -> bool:
    """Eligible, whole but for the recovery that the primary broke, and stopped."""
    if report is None or report.postmaster not in STOPPED or report.fence_held or record.fence_held:
        return False
    others = [fault for fault in (*record.faults, *report.faults) if fault.kind is not FaultKind.REDO_FAILED]
    damaged = any(fault.kind in INTEGRITY_FAULTS and fault.is_proof for fault in others)
    whole = has_own_data(before, report) and not damaged and not record.needs_rebuild
    return is_eligible(record) and is_blamed_on_primary(before, record) and whole


def _can_take_over(context: Context, name: str) -> bool:
    """The primary waits for it still: nothing was acknowledged without it."""
    record, primary = context.record(name), context.report(context.state.primary)
    waits = (
        primary is None or primary.postmaster in STOPPED or primary.names == (standby_name(name, record.generation),)
    )
    return (
        waits and context.is_free(name) and may_be_promoted_before_record(context.state, record, context.report(name))
    )


def _receipts_are_kept(context: Context) -> bool:
    """Every server is heard from, and its receipts reach their disk."""
    fresh = [seen.report for seen in context.observation.servers if seen.age_ms <= FRESH_SERVER_MS]
    return bool(fresh) and all(report.receipts_problem is None for report in fresh)
