"""What the outside is shown of state and observation: phase, topology, one node's line. Pure functions."""

from __future__ import annotations

import msgspec

from failover.core.candidate import Candidacy, candidacy, is_verified
from failover.core.context import STOPPED, standby_name, walsender_of
from failover.core.model import Observation, Policy, State, TransitionKind
from replication.model import Fault, NodeReport, Role, format_lsn
from replication.topology import Phase, PrimaryEndpoint, StandbyEndpoint, Topology

_FRESH_SERVER_MS = 3_000


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """One node as `GET /v1/cluster` shows it; LSNs as text."""

    role: str
    state: str
    timeline: int | None = None
    flush_lsn: str | None = None
    replay_lsn: str | None = None
    lag_bytes: int | None = None
    eligible: bool = False
    eligible_reason: str = ""
    promotable: bool = False
    stage: str | None = None
    certificate: dict[str, object] | None = None
    faults: tuple[Fault, ...] = ()
    progress: float | None = None


def phase(state: State, observation: Observation, policy: Policy) -> Phase:
    """healthy: primary open and a standby promotable; degraded: open otherwise (DESIGN section 7)."""
    if state.transition is not None and state.transition.step != "checkpoint":
        failing = state.transition.kind is TransitionKind.FAILOVER
        return Phase.FAILING_OVER if failing else Phase.SWITCHING_OVER
    if not state.history:
        return Phase.STARTING
    if is_serving(state, observation):
        able = any(
            candidacy(state, name, observation.nodes.get(name), policy) is Candidacy.PROMOTABLE for name in state.nodes
        )
        return Phase.HEALTHY if able else Phase.DEGRADED
    report = observation.nodes.get(state.primary or "")
    if report is not None and (report.doing is not None or state.nodes[report.node].pending is not None):
        return Phase.STARTING
    return Phase.NO_PRIMARY


def is_serving(state: State, observation: Observation) -> bool:
    """The primary is open, by its agent's word; with a silent agent, unless a witness was refused or writes fail."""
    name = state.primary
    report = observation.nodes.get(name) if name is not None else None
    if report is not None:
        return report.postmaster not in STOPPED and report.in_recovery is False and report.stage == "open"
    for other in observation.nodes.values():
        witness = other.witness if other is not None else None
        if witness is not None and witness.peer == name and witness.tcp == "refused":
            return False
    fresh = [seen.report for seen in observation.servers if seen.age_ms <= _FRESH_SERVER_MS]
    return not any(seen.connect_error is not None or seen.writes_failing_ms is not None for seen in fresh)


def topology(state: State, observation: Observation, policy: Policy, dsns: dict[str, str]) -> Topology:
    """The record that servers follow; the primary is None while none is open."""
    now = phase(state, observation, policy)
    primary = None
    promoting = state.transition is not None and state.transition.step == "promoting"
    shown = now in (Phase.HEALTHY, Phase.DEGRADED, Phase.SWITCHING_OVER) and not promoting
    if shown and state.primary is not None and state.primary in dsns:
        primary = PrimaryEndpoint(state.primary, dsns[state.primary])
    standbys = tuple(
        _standby(state, observation.nodes.get(name), name, dsns[name])
        for name in sorted(state.nodes)
        if name != state.primary and name in dsns
    )
    return Topology(state.term, primary, standbys, now)


def _standby(state: State, report: NodeReport | None, name: str, dsn: str) -> StandbyEndpoint:
    record = state.nodes[name]
    proved = (
        report is not None
        and report.in_recovery is True
        and not record.needs_rebuild
        and report.configured_name == standby_name(name, record.generation)
    )
    certified = format_lsn(record.certificate.checked_through_lsn) if record.certificate is not None else None
    return StandbyEndpoint(name, dsn, record.eligible, report.timeline if proved and report else None, certified)


def node_view(state: State, observation: Observation, name: str, policy: Policy) -> NodeView:
    """One node's line, also when its agent is silent."""
    record, report = state.nodes[name], observation.nodes.get(name)
    role = Role.PRIMARY if name == state.primary else Role.STANDBY
    why = candidacy(state, name, report, policy)
    reason = record.eligible_reason if not record.eligible else why.value
    if name == state.primary:
        reason = "it is the primary"
    view = NodeView(
        role=role.value,
        state=state_word(state, name, report),
        eligible=record.eligible and name != state.primary,
        eligible_reason=reason,
        promotable=why is Candidacy.PROMOTABLE,
        certificate=_certificate(state, name),
        faults=(*record.faults, *(report.faults if report is not None else ())),
    )
    if report is None:
        return view
    return msgspec.structs.replace(
        view,
        timeline=report.timeline,
        flush_lsn=format_lsn(report.flush_lsn) if report.flush_lsn is not None else None,
        replay_lsn=format_lsn(report.replay_lsn) if report.replay_lsn is not None and role is Role.STANDBY else None,
        lag_bytes=lag_bytes(state, observation, name),
        stage=report.stage.value if report.stage is not None and role is Role.PRIMARY else None,
        progress=report.doing.progress if report.doing is not None else None,
    )


def state_word(state: State, name: str, report: NodeReport | None) -> str:
    """running, stopped, fenced, quarantined, rebuilding or unreachable."""
    record = state.nodes[name]
    if report is None:
        return "unreachable"
    if report.doing is not None and report.doing.op == "rebuild":
        return "rebuilding"
    if record.fence_held or report.fence_held or report.fenced:
        return "fenced"
    if record.quarantined:
        return "quarantined"
    return "stopped" if report.postmaster in STOPPED else "running"


def lag_bytes(state: State, observation: Observation, name: str) -> int | None:
    """WAL that the standby has not flushed yet, as its primary's walsender shows it."""
    primary = observation.nodes.get(state.primary or "")
    if primary is None or name == state.primary:
        return None
    sender = walsender_of(primary, standby_name(name, state.nodes[name].generation))
    if sender is None or sender.flush_lsn is None or primary.flush_lsn is None:
        return None
    return max(0, primary.flush_lsn - sender.flush_lsn)


def _certificate(state: State, name: str) -> dict[str, object] | None:
    certificate = state.nodes[name].certificate
    if certificate is None:
        return None
    return {
        "checked_through_lsn": format_lsn(certificate.checked_through_lsn),
        "at": certificate.at,
        "pages": certificate.pages,
        "checks": list(certificate.checks),
    }


def next_step(state: State, observation: Observation, policy: Policy) -> str | None:
    """What a person should do now; None while there is a primary or one is being promoted."""
    alarm = next((alarm for alarm in state.alarms if alarm.name == "no_primary"), None)
    if alarm is not None:
        return alarm.sentence
    if phase(state, observation, policy) is not Phase.NO_PRIMARY:
        return None
    name = state.primary or "the primary"
    report = observation.nodes.get(name)
    if report is not None and (state.nodes[name].fence_held or report.fence_held):
        return f"{name} is fenced by hand: locum unfence {name}"
    if report is not None:
        return f"wait: {name} is being started; an alarm says so when it cannot go on without you"
    standby = next((node for node in sorted(state.nodes) if node != state.primary), None)
    if standby is not None and state.nodes[standby].eligible and not _able(state, observation, standby):
        return f"bring the host of {name} back, or promote by hand: locum failover --to {standby} --accept-data-loss"
    return f"bring {name} back: nothing else may be promoted without losing acknowledged bookings"


def _able(state: State, observation: Observation, name: str) -> bool:
    """It runs, as what it was proved to be."""
    report = observation.nodes.get(name)
    return report is not None and report.postmaster not in STOPPED and is_verified(state.nodes[name], report)
