"""The five invariants of DESIGN section 3, asserted on every decision; the simulator asserts them on the world."""

from __future__ import annotations

from failover.core.candidate import INTEGRITY_FAULTS, Candidacy, candidacy
from failover.core.model import Observation, Policy, State
from replication.actions import Op, Promote, Rebuild, SetNames, StartPrimary, StartStandby


class InvariantViolation(Exception):
    """The core was about to break a safety rule: the decision is not made. Stopping is better than going on wrongly."""


def check_step(before: State, after: State) -> None:
    """Invariant 1: terms and revisions never fall."""
    if after.term < before.term or after.revision < before.revision:
        raise InvariantViolation(
            f"term {before.term} to {after.term}, revision {before.revision} to {after.revision}: neither may fall"
        )


def check_ops(
    before: State, after: State, observation: Observation, ops: dict[str, Op], policy: Policy, *, by_operator: bool
) -> None:
    """Invariants 2 to 5, as far as a decision can break them. Raises InvariantViolation."""
    for name, op in ops.items():
        if isinstance(op, StartPrimary | SetNames) and name != after.primary:
            raise InvariantViolation(f"{name} would act as a primary, which in term {after.term} is {after.primary}")
        if isinstance(op, SetNames | StartPrimary) and not op.names and any(r.eligible for r in after.nodes.values()):
            raise InvariantViolation(f"{name} would be relaxed while a standby is journalled eligible")
        if isinstance(op, Promote):
            _check_promotion(before, after, observation, name, policy, by_operator=by_operator)
        if isinstance(op, Rebuild) and any(f.kind in INTEGRITY_FAULTS for f in after.nodes[op.source].faults):
            raise InvariantViolation(f"{op.source} carries an integrity fault and would be the source of a rebuild")
        if isinstance(op, StartStandby) and op.upstream is not None and after.nodes[name].quarantined:
            raise InvariantViolation(f"{name} is quarantined and would rejoin without a rebuild")


def _check_promotion(
    before: State, after: State, observation: Observation, name: str, policy: Policy, *, by_operator: bool
) -> None:
    transition = after.transition
    if transition is None or transition.candidate != name:
        raise InvariantViolation(f"{name} would be promoted without a journalled transition")
    if before.transition is not None and before.transition.candidate == name:
        return  # Judged when the transition was journalled; what was promotable then is being seen through.
    why = candidacy(before, name, observation.nodes.get(name), policy)
    if why is not Candidacy.PROMOTABLE and not by_operator and not _is_wal_lost(after):
        raise InvariantViolation(f"{name} would be promoted although {why.value}")


def _is_wal_lost(after: State) -> bool:
    return after.incident_verdict is not None and after.incident_verdict.kind.value == "wal_lost"
