"""The five invariants of DESIGN section 3, asserted on every decision; the simulator asserts them on the world."""

from __future__ import annotations

from collections.abc import Mapping

from failover.core.broken_redo import may_be_promoted_before_record
from failover.core.candidate import (
    Candidacy,
    candidacy,
    carries_integrity_fault,
    is_eligible,
    may_be_copied,
    must_be_rebuilt,
)
from failover.core.model import Observation, Policy, State
from replication.actions import Op, Promote, Rebuild, SetNames, StartPrimary, StartStandby


class InvariantViolation(Exception):
    """The core was about to break a safety rule: the decision is not made. Stopping is better than going on wrongly."""


def check_step(before: State, after: State) -> None:
    """Invariant 1: terms and revisions never fall, and what is stored is newer than what was."""
    if after.term < before.term or after.revision <= before.revision:
        raise InvariantViolation(
            f"term {before.term} to {after.term}, revision {before.revision} to {after.revision}: neither may fall"
        )


def check_plan(
    before: State,
    after: State,
    observation: Observation,
    ops: Mapping[str, Op],
    policy: Policy,
    *,
    by_operator: bool,
    kind: str,
) -> None:
    """Invariants 2 to 5, as far as a decision can break them. Raises InvariantViolation."""
    if _begins_promotion(before, after):
        _check_promotion(before, after, observation, policy, by_operator=by_operator, kind=kind)
    for name, op in ops.items():
        if isinstance(op, StartPrimary | SetNames) and name != after.primary:
            raise InvariantViolation(f"{name} would act as a primary, which in term {after.term} is {after.primary}")
        if isinstance(op, SetNames | StartPrimary) and not op.names and any(r.eligible for r in after.nodes.values()):
            raise InvariantViolation(f"{name} would be relaxed while a standby is journalled eligible")
        if isinstance(op, Promote) and (after.transition is None or after.transition.candidate != name):
            raise InvariantViolation(f"{name} would be promoted without a journalled transition")
        if isinstance(op, Rebuild):
            _check_source(after, observation, name, op, policy)
        if isinstance(op, StartStandby) and op.upstream is not None and must_be_rebuilt(after.nodes[name]):
            record = after.nodes[name]
            rebuilt = record.needs_certificate and not record.needs_rebuild
            if not rebuilt and not record.eligible:  # an eligible one never left the pair
                raise InvariantViolation(f"{name} must be rebuilt and would rejoin without it")


def _begins_promotion(before: State, after: State) -> bool:
    was = before.transition is not None and before.transition.step == "promoting"
    return not was and after.transition is not None and after.transition.step == "promoting"


def _check_promotion(
    before: State,
    after: State,
    observation: Observation,
    policy: Policy,
    *,
    by_operator: bool,
    kind: str,
) -> None:
    """Invariants 3 and 4. Of an eligible node the comparison of WAL proves what its restart had put in doubt."""
    name = after.transition.candidate if after.transition is not None else ""
    report, record = observation.nodes.get(name), before.nodes[name]
    if after.term <= before.term:
        raise InvariantViolation(f"{name} would be promoted in term {after.term}, which is not a new one")
    if by_operator:
        return
    if kind == "failover.before_record":
        if not may_be_promoted_before_record(before, record, report):
            raise InvariantViolation(f"{name} would be promoted before a record, and is not what is left of the truth")
        return
    if kind == "start.wal_lost":
        if not is_eligible(record) or (report is not None and carries_integrity_fault(record, report)):
            raise InvariantViolation(f"{name} would be promoted on wal_lost although it is not eligible or damaged")
        return
    why = candidacy(before, name, report, policy)
    if why is not Candidacy.PROMOTABLE:
        raise InvariantViolation(f"{name} would be promoted although {why.value}")


def _check_source(after: State, observation: Observation, name: str, op: Rebuild, policy: Policy) -> None:
    """Invariant 4: damage is not copied, unless an operator said so, or it is all that is left (candidate.may_be_copied)."""
    source = observation.nodes.get(op.source)
    if after.nodes[name].rebuild_accepts_damage:
        return
    if source is None:
        raise InvariantViolation(f"{op.source} is silent, and {name} would be its copy")
    record = after.nodes[op.source]
    if carries_integrity_fault(record, source) and not may_be_copied(after, record, source, policy):
        raise InvariantViolation(f"{op.source} carries an integrity fault, and {name} would be its copy")
