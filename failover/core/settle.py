"""What earlier actions did: learnt only from what the agents say now, before any new decision."""

from __future__ import annotations

import msgspec

from failover.core.alarms import note_alarms
from failover.core.broken_redo import note_broken_redo
from failover.core.candidate import is_eligible, must_be_rebuilt
from failover.core.context import disqualified, standby_name, walsender_of, with_node
from failover.core.model import NodeRecord, Observation, Pending, Policy, State
from failover.core.node_faults import note_faults
from replication.actions import (
    ApplySchema,
    Certify,
    CheckReceipts,
    CompareWal,
    DropMaps,
    Grow,
    ReadPlaces,
    Rebuild,
    Reindex,
    StartStandby,
)
from replication.model import ActionResult, FaultKind, NodeReport, Postmaster, Reason

_REBUILD_REASONS = (Reason.HISTORY_DIFFERS, Reason.AHEAD)


def settle(state: State, observation: Observation, policy: Policy) -> State:
    """Bring the clock forward, settle finished actions, and note what the reports prove."""
    state = msgspec.structs.replace(state, now_ms=max(state.now_ms, observation.now_ms))
    for name in sorted(state.nodes):
        report = observation.nodes.get(name)
        if report is None:
            continue
        pending = state.nodes[name].pending
        if pending is not None:
            state = _settle_action(state, name, pending, report, observation, policy)
    state = _note_confirmations(_note_identity(state, observation), observation)
    state = _note_certificates(state, observation)
    return note_alarms(note_broken_redo(note_faults(state, observation), observation), observation)


def can_never_be_accepted(pending: Pending, report: NodeReport, action_ttl_ms: int) -> bool:
    """The action was not accepted, and its boot is over or its time to live has passed on the agent's own clock."""
    if report.revision >= pending.revision:
        return False
    return report.boot_id != pending.boot_id or report.clock_ms > pending.observed_clock_ms + action_ttl_ms


def has_ended(pending: Pending, report: NodeReport) -> bool:
    """The agent accepted it, and it no longer runs."""
    if report.revision < pending.revision:
        return False
    return report.doing is None or report.doing.revision != pending.revision


def _settle_action(
    state: State, name: str, pending: Pending, report: NodeReport, observation: Observation, policy: Policy
) -> State:
    if observation.refused.get(name) == pending.revision and report.revision < pending.revision:
        return with_node(state, name, pending=None, retry_after_ms=state.now_ms + policy.probe_interval_ms)
    if can_never_be_accepted(pending, report, policy.action_ttl_ms):
        return with_node(state, name, pending=None)
    if not has_ended(pending, report):
        return state
    result = next((done for done in report.results if done.revision == pending.revision), None)
    state = with_node(state, name, pending=None)
    if isinstance(pending.op, Grow):
        return _grown(state, name, pending, pending.op, observation, policy)
    if result is None or not result.ok:
        state = _delayed(state, name, policy)
        if isinstance(pending.op, StartStandby) and result is not None:
            state = _start_failed(state, name, result, policy)
        return state
    state = with_node(state, name, failures=0, retry_after_ms=0)
    return _succeeded(state, name, pending, report)


def _delayed(state: State, name: str, policy: Policy) -> State:
    """The next action for this node waits, longer after each failure."""
    failures = state.nodes[name].failures
    delay_ms = min(policy.retry_ms * 2**failures, policy.retry_ms_max)
    return with_node(state, name, failures=min(failures + 1, 16), retry_after_ms=state.now_ms + delay_ms)


def _start_failed(state: State, name: str, result: ActionResult, policy: Policy) -> State:
    """A standby that cannot follow is rebuilt, but never while it is eligible: then it may hold the only good copy."""
    record = state.nodes[name]
    if is_eligible(record) and state.primary is not None and result.reason in _REBUILD_REASONS:
        # It holds what the primary does not: that lost its end after the comparison, and must be compared again.
        return with_node(state, state.primary, started_compared=False)
    if is_eligible(record) or name == state.primary:
        return state
    tries_used_up = record.failures >= policy.start_failures_max and result.reason == Reason.FAILED
    if result.reason not in _REBUILD_REASONS and not tries_used_up:
        return state
    return with_node(state, name, needs_rebuild=True, rebuild_reason=result.sentence, retry_after_ms=0, failures=0)


def _succeeded(state: State, name: str, pending: Pending, report: NodeReport) -> State:
    op = pending.op
    if isinstance(op, ApplySchema):
        return msgspec.structs.replace(state, schema_applied=True)
    if isinstance(op, ReadPlaces) and report.places_read is not None and report.places_read.clean:
        return with_node(state, name, places_read=op.places, places_read_ms=state.now_ms)
    if isinstance(op, CheckReceipts):
        return with_node(state, name, receipts_revision=pending.revision)
    if isinstance(op, CompareWal):
        return with_node(state, name, compared_revision=pending.revision)
    if isinstance(op, Reindex):
        faults = tuple(fault for fault in state.nodes[name].faults if fault.kind is not FaultKind.INDEX_CORRUPT)
        state = msgspec.structs.replace(state, incident_since_ms=state.now_ms, incident_receipts_are_new=False)
        return with_node(state, name, reindexed=op.places, faults=faults)
    if isinstance(op, DropMaps):
        faults = tuple(fault for fault in state.nodes[name].faults if fault.kind is not FaultKind.VM_CORRUPT)
        return with_node(state, name, maps_due=(), faults=faults)
    if isinstance(op, Rebuild):
        return with_node(
            state,
            name,
            needs_rebuild=False,
            rebuild_reason="",
            rebuild_accepts_damage=False,
            needs_certificate=is_certificate_due(),
            certificate=None,
            faults=(),
            places_read=(),
            reindexed=(),
            maps_due=(),
            redo_failure=None,
            confirmed_flush_lsn=None,
            confirmed_timeline=None,
            unstreamed_starts=0,
        )
    if isinstance(op, Certify) and report.certificate is not None:
        return with_node(state, name, needs_certificate=False, quarantined=False, certificate=report.certificate)
    return state


def is_certificate_due() -> bool:
    """A copy counts only after its pages were checked (DESIGN section 4, grow)."""
    return True


def growth_is_proved(pending: Pending, op: Grow, primary: NodeReport, standby: NodeReport | None) -> bool:
    """Commits wait for exactly this walsender, between exactly these two incarnations (DESIGN section 4, grow)."""
    growth, sender = primary.growth, walsender_of(primary, op.name)
    return (
        growth is not None
        and growth.proved
        and growth.revision == pending.revision
        and growth.name == op.name
        and primary.names == (op.name,)
        and sender is not None
        and (sender.pid, sender.backend_start) == (growth.walsender_pid, growth.walsender_backend_start)
        and primary.incarnation == growth.primary_incarnation
        and standby is not None
        and standby.incarnation == growth.standby_incarnation
    )


def _grown(state: State, name: str, pending: Pending, op: Grow, observation: Observation, policy: Policy) -> State:
    """Eligible, when proved. A standby that was eligible before stays so after one failed proof (its primary may have
    died meanwhile), but not after two."""
    primary, record = observation.nodes[name], state.nodes[op.standby]
    growth = primary.growth if primary is not None else None
    proved = (
        primary is not None
        and name == state.primary
        and growth_is_proved(pending, op, primary, observation.nodes.get(op.standby))
    )
    if growth is None or not proved or must_be_rebuilt(record):
        had_failed = state.nodes[name].failures > 0
        if had_failed and is_eligible(record) and primary is not None and primary.postmaster is Postmaster.RUNNING:
            state = disqualified(state, op.standby, "commits were not seen to wait for it")
        return _delayed(state, name, policy)
    state = with_node(state, name, failures=0, retry_after_ms=0)
    return with_node(
        state,
        op.standby,
        eligible=True,
        eligible_reason="growth proved",
        eligible_incarnation=growth.standby_incarnation,
        eligible_primary_incarnation=growth.primary_incarnation,
        grown_walsender=f"{growth.walsender_pid}/{growth.walsender_backend_start}",
    )


def _note_identity(state: State, observation: Observation) -> State:
    report = observation.nodes.get(state.primary) if state.primary is not None else None
    if state.system_identifier is not None or report is None or report.system_identifier is None:
        return state
    if state.nodes[report.node].may_open_alone:  # journalled with InitDb: nothing found there before is taken over
        return msgspec.structs.replace(state, system_identifier=report.system_identifier)
    return state


def _note_certificates(state: State, observation: Observation) -> State:
    """What a standby has certified of itself since. Whether it may confirm at all was for the certificate after its rebuild."""
    for name in sorted(state.nodes):
        report, record = observation.nodes.get(name), state.nodes[name]
        if report is None or report.certificate is None or record.needs_certificate or record.needs_rebuild:
            continue
        if record.certificate is not None and report.certificate != record.certificate:
            state = with_node(state, name, certificate=report.certificate)
    return state


def _note_confirmations(state: State, observation: Observation) -> State:
    primary = observation.nodes.get(state.primary) if state.primary is not None else None
    if primary is None or primary.in_recovery is not False:
        return state
    for name in sorted(state.nodes):
        if name != state.primary:
            state = with_node(state, name, **_sender_changes(state, state.nodes[name], primary))
    return state


def _sender_changes(state: State, record: NodeRecord, primary: NodeReport) -> dict[str, object]:
    """When its walsender went away, when its flush LSN last moved, and the highest that it confirmed."""
    sender = walsender_of(primary, standby_name(record.name, record.generation))
    if sender is None or sender.flush_lsn is None:
        since = record.lost_since_ms if record.lost_since_ms is not None else state.now_ms
        return {"lost_since_ms": since}
    changes: dict[str, object] = {"lost_since_ms": None}
    if sender.flush_lsn != record.flush_seen_lsn:
        changes |= {"flush_seen_lsn": sender.flush_lsn, "flush_seen_ms": state.now_ms}
    if sender.name in primary.names:
        known = record.confirmed_flush_lsn or 0
        if record.confirmed_timeline != primary.timeline or sender.flush_lsn > known:
            changes |= {"confirmed_flush_lsn": sender.flush_lsn, "confirmed_timeline": primary.timeline}
    return changes
