"""May this standby be promoted? One enumeration with a sentence for each case, and no side effects.

*Eligible*: promoting it loses no acknowledged write. *Promotable*: eligible, and able to, now (DESIGN section 4). Pure,
so that every branch can be tested without a cluster.
"""

from __future__ import annotations

from enum import Enum

from failover.core.model import NodeRecord, Policy, State
from replication.model import DataDirectory, Fault, FaultKind, NodeReport, Postmaster

CONTENT_FAULTS = frozenset(
    {
        FaultKind.LOST_WRITE,
        FaultKind.MISDIRECTED_WRITE,
        FaultKind.STALE_PAGE,
        FaultKind.VM_CORRUPT,
        FaultKind.ROW_MISSING,
        FaultKind.SEAL_MISMATCH,
    }
)
"""Damage that PostgreSQL reads without an error: a copy of it is whole as a copy, and lacks what the original lacks."""
INTEGRITY_FAULTS = CONTENT_FAULTS | {
    FaultKind.PAGE_CORRUPT,
    FaultKind.INDEX_CORRUPT,
    FaultKind.WAL_CORRUPT,
    FaultKind.CONTROL_CORRUPT,
    FaultKind.REDO_FAILED,
    FaultKind.DIVERGED,
    FaultKind.WAL_LOST,
}
UNFIT_FAULTS = INTEGRITY_FAULTS | {FaultKind.STORAGE_ERROR}
"""With one of these a node is not promoted, and is rebuilt: its content, or the disk under it, cannot be trusted."""


class Candidacy(Enum):
    """Why a node may be promoted, or why not; the value is the sentence."""

    PROMOTABLE = "promotable"
    IS_PRIMARY = "it is the primary"
    NOT_ELIGIBLE = "not eligible: promoting it could lose an acknowledged write"
    UNVERIFIED = "eligible, but its postmaster has started again since that was proved"
    SILENT = "its agent does not answer"
    NOT_RUNNING = "its PostgreSQL is not running as a standby"
    DAMAGED = "it carries an unresolved integrity or storage fault"
    NEEDS_REBUILD = "it must be rebuilt first"
    FENCED = "it is fenced by an operator"
    NO_DATA = "it has no data directory of this cluster"
    PAUSED = "its replay is paused"
    STUCK = "its replay does not move"
    BACKLOG = "its replay backlog is above the limit"
    BEHIND = "its WAL ends below what it was seen to confirm"


def candidacy(
    state: State, name: str, report: NodeReport | None, policy: Policy, *, accept_damage: bool = False
) -> Candidacy:
    """The first reason against promoting `name`, or PROMOTABLE. Damage comes first, so that accepting it hides no
    other reason."""
    record = state.nodes[name]
    if name == state.primary:
        return Candidacy.IS_PRIMARY
    if report is None:
        return Candidacy.SILENT
    if not has_own_data(state, report):
        return Candidacy.NO_DATA
    if report.fence_held or record.fence_held:
        return Candidacy.FENCED
    if is_unfit(record, report) and not accept_damage:
        return Candidacy.DAMAGED
    if must_be_rebuilt(record):
        return Candidacy.NEEDS_REBUILD
    if not is_eligible(record):
        return Candidacy.NOT_ELIGIBLE
    return _able(record, report, policy)


def _able(record: NodeRecord, report: NodeReport, policy: Policy) -> Candidacy:
    if report.fenced or report.postmaster is not Postmaster.RUNNING or report.in_recovery is not True:
        return Candidacy.NOT_RUNNING
    if not is_verified(record, report):
        return Candidacy.UNVERIFIED
    if report.replay_paused and not report.replay_paused_by_probe:
        return Candidacy.PAUSED
    if not report.replay_moved:
        return Candidacy.STUCK
    if backlog_bytes(report) > policy.replay_backlog_bytes_max:
        return Candidacy.BACKLOG
    if not reaches_confirmed(record, report):
        return Candidacy.BEHIND
    return Candidacy.PROMOTABLE


def is_eligible(record: NodeRecord) -> bool:
    """Promoting it loses no acknowledged write (journalled, never inferred)."""
    return record.eligible


def must_be_rebuilt(record: NodeRecord) -> bool:
    """It may rejoin only through a rebuild and a certificate (invariant 5)."""
    return record.needs_rebuild or record.quarantined


def has_own_data(state: State, report: NodeReport) -> bool:
    """Its data directory is whole and this cluster's."""
    return report.data is DataDirectory.PRESENT and not is_foreign(state, report)


def is_foreign(state: State, report: NodeReport) -> bool:
    """Its data directory is something else: another version, another cluster. It is never touched."""
    if report.data is DataDirectory.FOREIGN:
        return True
    return None not in (report.system_identifier, state.system_identifier) and (
        report.system_identifier != state.system_identifier
    )


def is_verified(record: NodeRecord, report: NodeReport) -> bool:
    """Its postmaster is the very one for which eligibility was proved."""
    return record.eligible_incarnation is not None and report.incarnation == record.eligible_incarnation


def carries_integrity_fault(record: NodeRecord, report: NodeReport) -> bool:
    """An unresolved integrity fault, journalled or just seen."""
    return any(fault.kind in INTEGRITY_FAULTS and fault.is_proof for fault in (*record.faults, *report.faults))


def is_unfit(record: NodeRecord, report: NodeReport) -> bool:
    """An unresolved integrity fault, or an error of its disk, journalled or just seen."""
    return any(fault.kind in UNFIT_FAULTS and fault.is_proof for fault in (*record.faults, *report.faults))


def wal_end(report: NodeReport) -> int:
    """How far its received WAL reaches: the later of receive and replay LSN."""
    return max(report.receive_lsn or 0, report.replay_lsn or 0)


def must_reach(record: NodeRecord, report: NodeReport) -> int:
    """How far the WAL of a chosen candidate must reach whatever happens to it: all that it was seen to have, and all that
    it was seen to confirm, which its own report may be too old to show."""
    confirmed = record.confirmed_flush_lsn if record.confirmed_timeline == report.timeline else None
    return max(wal_end(report), confirmed or 0)


def backlog_bytes(report: NodeReport) -> int:
    """Received WAL that is not replayed yet."""
    return max(0, wal_end(report) - (report.replay_lsn or 0))


def reaches_confirmed(record: NodeRecord, report: NodeReport) -> bool:
    """Its WAL reaches everything that it was ever seen to confirm on this timeline."""
    if record.confirmed_flush_lsn is None or record.confirmed_timeline != report.timeline:
        return True
    return wal_end(report) >= record.confirmed_flush_lsn


def may_be_copied(state: State, source: NodeRecord, report: NodeReport, policy: Policy) -> bool:
    """The only node that is left carries damage that every copy takes over unseen, its indexes agree with its tables again, and
    all that was acknowledged was found on it, or put back, since: a second copy on another disk is better than none.

    Damaged WAL is not copied at all: a copy begins with a checkpoint of its own and needs what is written from there on.
    Not while another node is eligible: then that one holds what this one lacks.
    """
    if not policy.copy_when_alone or any(is_eligible(record) for record in state.nodes.values()):
        return False
    check = state.incident_receipts
    faults = [fault for fault in (*source.faults, *report.faults) if fault.kind in INTEGRITY_FAULTS and fault.is_proof]
    whole = check is not None and check.lost == 0 and check.double_booked == 0 and state.incident_receipts_are_new
    bearable = all(_is_left_behind(fault) or _is_made_anew(fault, source) for fault in faults)
    return whole and bearable and not report.names


def _is_left_behind(fault: Fault) -> bool:
    return fault.kind is FaultKind.WAL_CORRUPT and all(
        (place.path or "").startswith("pg_wal/") for place in fault.places
    )


def _is_made_anew(fault: Fault, source: NodeRecord) -> bool:
    return fault.kind in CONTENT_FAULTS and set(fault.places) <= set(source.reindexed)
