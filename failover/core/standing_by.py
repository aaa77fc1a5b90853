"""The standby's life while a primary is open: rebuild, start under a new name, certificate, growth, shrink."""

from __future__ import annotations

from failover.core.broken_redo import may_hold_the_good_copy
from failover.core.candidate import (
    carries_integrity_fault,
    is_eligible,
    is_foreign,
    is_unfit,
    is_verified,
    may_be_copied,
)
from failover.core.context import STOPPED, Context, Plan, disqualified, slot_name, standby_name, walsender_of, with_node
from failover.core.model import NodeRecord
from replication.actions import Certify, EnsureSlot, Fence, Grow, Rebuild, SetNames, StartStandby
from replication.model import Cause, DataDirectory, Fault, FaultKind, NodeReport, Postmaster, Stage

_SLOT_GONE = ("lost", "unreserved")
_UNSTREAMED_STARTS_MAX = 2
_INTEGRITY_OR_STORAGE = ("storage", "corruption")


def shrink(context: Context) -> Plan | None:
    """Journal "not eligible", then relax, when a standby is lost and the primary is proved well."""
    primary = context.report(context.state.primary)
    if primary is None or not context.is_open_primary():
        return None
    for name in context.others(context.state.primary):
        if not must_relax(context, name, primary) or not may_relax(context, name, primary):
            continue
        state = disqualified(context.state, name, "lost") if is_eligible(context.record(name)) else context.state
        if not primary.names:
            return Plan("standby.lost", f"{name} is lost: not eligible.", state)
        if not context.is_idle(primary.node):
            return None
        op = SetNames(names=(), incarnation=primary.incarnation or "")
        sentence = f"{name} is lost: not eligible, {context.state.primary} goes on alone."
        return Plan("standby.shrink", sentence, state, {context.state.primary or "": op})
    return None


def primary_is_well(context: Context, name: str, primary: NodeReport) -> bool:
    """Its SQL and disk probes succeed and it carries no integrity or storage fault: the loss is not its own doing. A gap in WAL
    that the standby has from it does not count: the pages that were written by that WAL are the primary's alone."""
    probes_ok = primary.disk is not None and primary.disk.ok and primary.sql is not None and primary.sql.ok
    record_faults = context.record(primary.node).faults
    standby = context.record(name)
    return probes_ok and not any(
        fault.kind.cause.value in _INTEGRITY_OR_STORAGE and not _is_shared_gap(fault, standby)
        for fault in (*primary.faults, *record_faults)
    )


def _is_shared_gap(fault: Fault, standby: NodeRecord) -> bool:
    """WAL that neither node can read, in the same segment."""
    lacking = {place for one in standby.faults if one.kind is FaultKind.WAL_CORRUPT for place in one.places}
    return fault.kind is FaultKind.WAL_CORRUPT and not lacking.isdisjoint(fault.places)


def may_relax(context: Context, name: str, primary: NodeReport) -> bool:
    """Its standby is given up only by a primary that is well, or by an operator who wants a rebuild nevertheless; and never
    while that standby may hold the good copy."""
    if may_hold_the_good_copy(context, name):
        return context.record(name).rebuild_accepts_damage
    return primary_is_well(context, name, primary) or context.record(name).rebuild_accepts_damage


def must_relax(context: Context, name: str, primary: NodeReport) -> bool:
    """Lost for `standby_lost_ms`, or named on the primary although it is not eligible."""
    record, limit_ms = context.record(name), context.policy.standby_lost_ms
    if not is_eligible(record):
        return bool(primary.names) and not isinstance(_pending_op(context, primary.node), Grow)
    if record.lost_since_ms is not None and context.now_ms - record.lost_since_ms >= limit_ms:
        return True
    if primary.commit_waiting_ms is None or primary.commit_waiting_ms < limit_ms:
        return False
    return record.flush_seen_ms is not None and context.now_ms - record.flush_seen_ms >= limit_ms


def _pending_op(context: Context, name: str) -> object:
    pending = context.record(name).pending
    return pending.op if pending is not None else None


def tend_standby(context: Context) -> Plan | None:
    """The next step of bringing each standby back, one at a time."""
    primary = context.report(context.state.primary)
    if primary is None or primary.postmaster is not Postmaster.RUNNING or primary.in_recovery is not False:
        return None
    if primary.stage not in (Stage.REPLICATING, Stage.OPEN) or context.state.transition is not None:
        return None
    for name in context.others(context.state.primary):
        report = context.report(name)
        if report is None or not context.is_free(name) or report.fence_held or context.record(name).fence_held:
            continue
        if (plan := _tend(context, name, report, primary)) is not None:
            return plan
    return None


def _tend(context: Context, name: str, report: NodeReport, primary: NodeReport) -> Plan | None:
    record = context.record(name)
    if is_foreign(context.state, report):
        return None
    if may_hold_the_good_copy(context, name) and not record.rebuild_accepts_damage:
        return None
    if is_needed_to_open(record, report, primary):
        return _follow(context, name, report, primary)
    if not record.needs_rebuild and (reason := _why_rebuild(record, report, primary)) is not None:
        quarantined = record.quarantined or is_unfit(record, report)
        state = with_node(context.state, name, needs_rebuild=True, rebuild_reason=reason, quarantined=quarantined)
        return Plan("standby.rebuild_needed", f"{name} must be rebuilt: {reason}.", state)
    must_rebuild = record.needs_rebuild or (record.quarantined and not record.needs_certificate)
    if must_rebuild and (not is_eligible(record) or may_relax(context, name, primary)):
        return _rebuild(context, name, report, primary)
    return _follow(context, name, report, primary)


def is_needed_to_open(record: NodeRecord, report: NodeReport, primary: NodeReport) -> bool:
    """The primary opens only when its eligible standby confirms a commit: a rebuild, if it must have one, comes later."""
    return primary.stage is Stage.REPLICATING and is_eligible(record) and report.data is DataDirectory.PRESENT


def _follow(context: Context, name: str, report: NodeReport, primary: NodeReport) -> Plan | None:
    record = context.record(name)
    if report.postmaster in STOPPED:
        return _start(context, name, primary)
    if report.postmaster is not Postmaster.RUNNING:
        return None
    if report.in_recovery is False or report.configured_name != standby_name(name, record.generation):
        return Plan(
            "standby.restart", f"{name} runs under another role or name: stopping it.", context.state, {name: Fence()}
        )
    return _certify_or_grow(context, name, report, primary)


def _why_rebuild(record: NodeRecord, report: NodeReport, primary: NodeReport) -> str | None:
    if report.data in (DataDirectory.EMPTY, DataDirectory.HALF_BUILT):
        return f"its data directory is {report.data.value}"
    slot = next((slot for slot in primary.slots if slot.name == slot_name(report.node)), None)
    if slot is not None and slot.wal_status in _SLOT_GONE and not is_eligible(record):
        return f"its slot on {primary.node} is {slot.wal_status}: WAL that it needs is gone"
    if is_unfit(record, report):
        return "it carries an integrity or storage fault"
    if record.unstreamed_starts >= _UNSTREAMED_STARTS_MAX:
        return "it was started twice and did not stream"
    return None


def _rebuild(context: Context, name: str, report: NodeReport, primary: NodeReport) -> Plan | None:
    if context.is_paused or primary.stage is not Stage.OPEN:
        return None
    if is_eligible(context.record(name)):
        state = disqualified(context.state, name, "it must be rebuilt")
        return Plan("standby.disqualified", f"{name} is not eligible: it must be rebuilt.", state)
    if report.postmaster not in STOPPED:
        return Plan("standby.fence", f"Stopping {name} before its rebuild.", context.state, {name: Fence()})
    if (plan := _ensure_slot(context, name, primary)) is not None:
        return plan
    if not context.is_free(primary.node) or primary.names or not may_be_source(context, name, primary):
        return None
    if context.record(name).quarantined and not (report.disk is not None and report.disk.ok):
        return None
    op = Rebuild(
        source=primary.node,
        slot=slot_name(name),
        nonce=str(context.state.revision + 1),
        fast_checkpoint=not primary.names,
        only_differences=may_keep_what_is_equal(context.record(name), report),
        self_test_mb=context.policy.self_test_mb if context.record(name).quarantined else 0,
    )
    sentence = f"Rebuilding {name} from {primary.node}: {context.record(name).rebuild_reason}."
    return Plan("standby.rebuild", sentence, context.state, {name: op})


def may_keep_what_is_equal(record: NodeRecord, report: NodeReport) -> bool:
    """Its old data are there, and its disk did not fail: after that every block is written anew."""
    faults = (*record.faults, *report.faults)
    by_disk = any(fault.kind.cause is Cause.STORAGE and fault.kind is not FaultKind.STORAGE_FULL for fault in faults)
    return report.data is DataDirectory.PRESENT and not by_disk


def may_be_source(context: Context, name: str, primary: NodeReport) -> bool:
    """No copy is made of damage, unless an operator said so, or it is all that is left (invariant 4)."""
    source = context.record(primary.node)
    if not carries_integrity_fault(source, primary) or context.record(name).rebuild_accepts_damage:
        return True
    return may_be_copied(context.state, source, primary, context.policy)


def _ensure_slot(context: Context, name: str, primary: NodeReport) -> Plan | None:
    slot = next((slot for slot in primary.slots if slot.name == slot_name(name)), None)
    if slot is not None and slot.wal_status not in _SLOT_GONE:
        return None
    if not context.is_free(primary.node):
        return Plan("standby.wait", f"{primary.node} is busy; {name} needs its slot there.", context.state)
    return Plan(
        "standby.slot",
        f"Making the slot of {name} on {primary.node}.",
        context.state,
        {primary.node: EnsureSlot(slot_name(name))},
    )


def _start(context: Context, name: str, primary: NodeReport) -> Plan | None:
    """A new name at every start: while it is eligible the list gets the new name first, in one write."""
    if (plan := _ensure_slot(context, name, primary)) is not None:
        return plan
    record = context.record(name)
    used = record.generation <= record.started_generation
    generation = record.generation + 1 if used else record.generation
    new_name = standby_name(name, generation)
    state = with_node(context.state, name, generation=generation, lost_since_ms=None, unstreamed_since_ms=None)
    if is_eligible(record) and primary.names != (new_name,):
        if not context.is_free(primary.node):
            return None
        op = SetNames(names=(new_name,), incarnation=primary.incarnation or "")
        return Plan("standby.rename", f"{name} is to confirm as {new_name}.", state, {primary.node: op})
    state = with_node(state, name, started_generation=generation)
    start = StartStandby(name=new_name, upstream=primary.node, slot=slot_name(name))
    return Plan("standby.start", f"Starting {name} as {new_name}.", state, {name: start})


def _certify_or_grow(context: Context, name: str, report: NodeReport, primary: NodeReport) -> Plan | None:
    record = context.record(name)
    sender = walsender_of(primary, standby_name(name, record.generation))
    if primary.stage is not Stage.OPEN:
        return None
    if sender is None or sender.state != "streaming" or report.receiver is None:
        return _not_streaming(context, name)
    if record.unstreamed_since_ms is not None or record.unstreamed_starts:
        state = with_node(context.state, name, unstreamed_since_ms=None, unstreamed_starts=0)
        return Plan("standby.streams", f"{name} streams as {sender.name}.", state)
    if record.needs_certificate:
        op = Certify(peer_redo_lsn=primary.redo_lsn or 0)
        return Plan("standby.certify", f"Checking {name} before it may confirm writes.", context.state, {name: op})
    grown = record.grown_walsender == f"{sender.pid}/{sender.backend_start}"
    same_primary = record.eligible_primary_incarnation == primary.incarnation
    if is_eligible(record) and is_verified(record, report) and grown and same_primary:
        return None
    if not may_grow(context, report, primary, sender.flush_lsn) or not context.is_free(primary.node):
        return None
    grow = Grow(
        name=sender.name,
        standby=name,
        incarnation=primary.incarnation or "",
        standby_incarnation=report.incarnation or "",
    )
    return Plan("standby.grow", f"Proving that commits wait for {sender.name}.", context.state, {primary.node: grow})


def _not_streaming(context: Context, name: str) -> Plan | None:
    """It runs, its history was proved over the network, and still it does not stream: start it anew, then rebuild."""
    since_ms = context.record(name).unstreamed_since_ms
    if since_ms is None:
        state = with_node(context.state, name, unstreamed_since_ms=context.now_ms)
        return Plan("standby.awaited", f"{name} runs and is to stream.", state)
    if context.now_ms - since_ms < context.policy.stream_deadline_ms:
        return None
    starts = context.record(name).unstreamed_starts + 1
    state = with_node(context.state, name, unstreamed_since_ms=None, unstreamed_starts=starts)
    return Plan("standby.restart", f"{name} does not stream: starting it anew.", state, {name: Fence()})


def may_grow(context: Context, report: NodeReport, primary: NodeReport, flush_lsn: int | None) -> bool:
    """It streams the primary's own timeline and is near."""
    if report.receiver is None or report.receiver.received_tli != primary.timeline or flush_lsn is None:
        return False
    lag_bytes = max(0, (primary.insert_lsn or 0) - flush_lsn)
    return lag_bytes <= context.policy.grow_lag_bytes_max
