"""From observations to a verdict on the primary: a named cause with its evidence and what was ruled out.

*Unresponsive* and *unreachable* look alike from one place, so silence alone never convicts: a second witness (the
standby's agent, or a server whose writes do not return) must agree (DESIGN section 4, a second witness).
"""

from __future__ import annotations

from failover.core.context import STOPPED, Context
from failover.core.model import RuledOut, Silence, Verdict
from failover.core.node_faults import CONVICTING, convicting_faults
from replication.actions import Stop
from replication.model import Cause, Evidence, Fault, FaultKind, NodeReport

DEADLY = CONVICTING | {FaultKind.STORAGE_FULL}
_FRESH_SERVER_MS = 1_500
_HEARTBEATS_UNMOVED = 2


def diagnose_primary(context: Context) -> Verdict | None:
    """Why the primary must be replaced, or None while nothing convicts it."""
    name = context.state.primary
    if name is None or context.state.system_identifier is None:
        return None
    report = context.report(name)
    if (verdict := _from_faults(context, name, report)) is not None:
        return verdict
    if report is not None:
        return _from_its_agent(context, name, report)
    if context.observation.late:
        return None
    return _from_witnesses(context, name)


def _from_its_agent(context: Context, name: str, report: NodeReport) -> Verdict | None:
    pending = context.record(name).pending
    if pending is not None and isinstance(pending.op, Stop):
        return None
    if report.postmaster in STOPPED:
        if (fault := cause_of_death(report)) is not None:
            return _convicted(name, report, fault)
        sentence = report.exit_sentence or ("it is fenced" if report.fenced else "no postmaster runs")
        return Verdict(
            cause=Cause.PROCESS,
            kind=FaultKind.PROCESS_DEAD,
            node=name,
            confidence=1.0,
            sentence=f"PostgreSQL of node {name} is dead: {sentence}.",
            evidence=(_evidence(context, "postmaster", f"agent {name}", sentence),),
            ruled_out=_ruled_out_by_disk(report),
        )
    if (verdict := _stalled(context, name, report)) is not None:
        return verdict
    if report.sql is not None and not report.sql.ok and report.sql.fault is FaultKind.UNRESPONSIVE:
        return _unresponsive(context, name, report)
    return None


def cause_of_death(report: NodeReport) -> Fault | None:
    """What ended a PostgreSQL that is dead: a disk that was full or read-only, which alone replaces nobody, or damage."""
    return next((fault for fault in report.faults if fault.kind in DEADLY and fault.is_proof), None)


def diagnose_dead(context: Context, name: str) -> Verdict | None:
    """What a stopped node's PostgreSQL said before it died, which its agent may have read only after the death was known."""
    report = context.report(name)
    if report is None or report.postmaster not in STOPPED:
        return None
    fault = cause_of_death(report)
    return None if fault is None else _convicted(name, report, fault)


def _from_faults(context: Context, name: str, report: NodeReport | None) -> Verdict | None:
    """What PostgreSQL said of its own disk and pages, or a disk probe, convicts without another witness."""
    fault = next(iter(convicting_faults(context, name)), None)
    return None if fault is None else _convicted(name, report, fault)


def diagnose_standby(context: Context, name: str) -> Verdict | None:
    """What is journalled against a standby: it cannot be promoted until it was rebuilt, and a person should know why."""
    fault = next((fault for fault in context.record(name).faults if fault.is_proof), None)
    return None if fault is None else _convicted(name, context.report(name), fault)


def _convicted(name: str, report: NodeReport | None, fault: Fault) -> Verdict:
    ruled = [
        RuledOut(Cause.NETWORK, f"{fault.evidence[0].by if fault.evidence else 'the node'} had the error as an answer")
    ]
    if report is not None and report.postmaster not in STOPPED:
        ruled.append(RuledOut(Cause.PROCESS, "its postmaster runs"))
    if fault.kind.cause is Cause.CORRUPTION and report is not None and report.disk is not None and report.disk.ok:
        ruled.append(RuledOut(Cause.STORAGE, f"the disk probe succeeded {report.disk.age_ms} ms ago"))
    where = f" ({fault.places[0]})" if fault.places and str(fault.places[0]) not in fault.sentence else ""
    return Verdict(
        cause=fault.kind.cause,
        kind=fault.kind,
        node=name,
        confidence=fault.confidence,
        sentence=f"Node {name} is damaged: {fault.sentence}{where}.",
        evidence=fault.evidence,
        ruled_out=tuple(ruled),
    )


def _stalled(context: Context, name: str, report: NodeReport) -> Verdict | None:
    """A disk over its deadline may only be slow; while no commit comes back either, it holds up everybody. PostgreSQL may go on
    answering reads from its buffers all the while."""
    fault = next((fault for fault in report.faults if fault.kind is FaultKind.STORAGE_STALLED and fault.is_proof), None)
    witnesses = (*_standby_evidence(context, name), *_server_evidence(context, name))
    if fault is None or context.observation.late or not witnesses:
        return None
    return Verdict(
        cause=Cause.STORAGE,
        kind=FaultKind.STORAGE_STALLED,
        node=name,
        confidence=fault.confidence,
        sentence=f"The disk of node {name} stands still, and {witnesses[0].by} agrees ({witnesses[0].value}): {fault.sentence}.",
        evidence=(*fault.evidence, *witnesses),
        ruled_out=(
            RuledOut(Cause.NETWORK, "its agent answers, on the same host"),
            RuledOut(Cause.PROCESS, "its postmaster runs"),
        ),
    )


def _unresponsive(context: Context, name: str, report: NodeReport) -> Verdict | None:
    witnesses = (*_standby_evidence(context, name), *_server_evidence(context, name))
    if context.observation.late or not witnesses:
        return None
    own = _evidence(
        context, "SQL probe", f"agent {name}", report.sql.error or "over its deadline" if report.sql else ""
    )
    return Verdict(
        cause=Cause.PROCESS,
        kind=FaultKind.UNRESPONSIVE,
        node=name,
        confidence=0.9,
        sentence=f"PostgreSQL of node {name} does not answer, and {witnesses[0].by} agrees.",
        evidence=(own, *witnesses),
        ruled_out=_ruled_out_by_disk(report),
    )


def _from_witnesses(context: Context, name: str) -> Verdict | None:
    silence = context.observation.silence.get(name, Silence.ERROR)
    own = _evidence(context, "agent", "controller", f"{silence.value}")
    if (refused := _refused_evidence(context, name)) is not None:
        return Verdict(
            cause=Cause.PROCESS,
            kind=FaultKind.PROCESS_DEAD,
            node=name,
            confidence=0.95,
            sentence=f"Agent and PostgreSQL of node {name} are dead: its agent is silent ({silence.value}) and its "
            f"PostgreSQL refuses connections, seen by {refused.by}.",
            evidence=(own, refused),
            ruled_out=(RuledOut(Cause.NETWORK, "a refused connection is an answer of the host: the path works"),),
        )
    witnesses = (*_standby_evidence(context, name), *_server_evidence(context, name))
    if silence is Silence.REFUSED:
        return _frozen_without_agent(context, name, own)
    if not witnesses:
        return None
    connects = _connects_evidence(context, name)
    if connects is not None and silence is Silence.TIMEOUT:
        return Verdict(
            cause=Cause.PROCESS,
            kind=FaultKind.UNRESPONSIVE,
            node=name,
            confidence=0.9,
            sentence=f"Node {name} takes connections and answers nothing, seen by the controller and {witnesses[0].by}.",
            evidence=(own, *witnesses),
            ruled_out=(RuledOut(Cause.NETWORK, f"{connects.by} can still connect to its PostgreSQL's port"),),
        )
    return Verdict(
        cause=Cause.NETWORK,
        kind=FaultKind.UNREACHABLE,
        node=name,
        confidence=0.8,
        sentence=f"Node {name} is unreachable from the controller and from {witnesses[0].by}.",
        evidence=(own, *witnesses),
        ruled_out=(RuledOut(Cause.STORAGE, "its storage probe cannot be asked from anywhere"),),
    )


def _frozen_without_agent(context: Context, name: str, own: Evidence) -> Verdict | None:
    """The host refuses the agent's port, so the agent is dead and heartbeats no more: standing WAL proves nothing. Only
    writes that do not return and a standby that receives nothing convict together."""
    servers, standbys = _server_evidence(context, name), _standby_evidence(context, name)
    if not servers or not standbys:
        return None
    return Verdict(
        cause=Cause.PROCESS,
        kind=FaultKind.UNRESPONSIVE,
        node=name,
        confidence=0.8,
        sentence=f"The agent of node {name} is dead and its PostgreSQL does not answer, seen by {servers[0].by}.",
        evidence=(own, *servers, *standbys),
        ruled_out=(RuledOut(Cause.NETWORK, "a refused connection is an answer of the host: the path works"),),
    )


def _refused_evidence(context: Context, name: str) -> Evidence | None:
    """A standby whose receiver is gone and whose connection to the primary's PostgreSQL is refused."""
    for other in context.others(name):
        report = context.report(other)
        if report is None or report.witness is None or report.witness.peer != name:
            continue
        if report.witness.tcp == "refused" and report.receiver is None:
            return _evidence(context, "TCP connection to PostgreSQL", f"agent {other}", "refused, no walreceiver")
    return None


def _connects_evidence(context: Context, name: str) -> Evidence | None:
    """A standby's agent that could open a TCP connection to the primary's PostgreSQL just now: its host answers."""
    for other in context.others(name):
        report = context.report(other)
        witness = report.witness if report is not None else None
        if witness is None or witness.peer != name or witness.age_ms > context.policy.probe_deadline_ms:
            continue
        if witness.tcp == "connected":
            return _evidence(context, "TCP connection to PostgreSQL", f"agent {other}", "connected")
    return None


def _standby_evidence(context: Context, name: str) -> tuple[Evidence, ...]:
    """Standbys that have received nothing for two heartbeats, so that no commit can be confirmed either."""
    limit_ms = _HEARTBEATS_UNMOVED * context.policy.heartbeat_ms
    found = []
    for other in context.others(name):
        report = context.report(other)
        if report is None or report.in_recovery is not True or report.witness is None:
            continue
        unmoved_ms = report.witness.receive_unmoved_ms
        if unmoved_ms is not None and unmoved_ms >= max(limit_ms, context.policy.probe_deadline_ms):
            found.append(_evidence(context, "received WAL", f"agent {other}", f"unmoved for {unmoved_ms} ms"))
    return tuple(found)


def _server_evidence(context: Context, name: str) -> tuple[Evidence, ...]:
    """Servers of this term whose writes to this primary do not come back."""
    found = []
    for seen in context.observation.servers:
        report = seen.report
        if seen.age_ms > _FRESH_SERVER_MS or report.term != context.state.term or report.primary != name:
            continue
        if report.writes_failing_ms is not None and report.writes_failing_ms >= context.policy.probe_deadline_ms:
            value = f"no write returned for {report.writes_failing_ms} ms"
            found.append(_evidence(context, "writes", f"server {report.server}", value))
    return tuple(found)


def _ruled_out_by_disk(report: NodeReport) -> tuple[RuledOut, ...]:
    ruled = [RuledOut(Cause.NETWORK, "its agent answers, on the same host")]
    if report.disk is not None and report.disk.ok:
        ruled.append(RuledOut(Cause.STORAGE, f"the disk probe succeeded {report.disk.age_ms} ms ago"))
    return tuple(ruled)


def _evidence(context: Context, what: str, by: str, value: str) -> Evidence:
    return Evidence(what=what, by=by, at=context.observation.at, value=value)
