"""The incident: opened with its verdict when something is done or must be known, closed when the cluster is whole again."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from failover.core.context import Context, Plan
from failover.core.diagnose import diagnose_dead, diagnose_primary, diagnose_standby
from failover.core.model import IncidentEvent, State, Verdict
from failover.core.node_faults import convicting_faults
from failover.core.receipts import began_ms, checked_receipts, is_whole, sentence_of
from replication.model import FaultKind


def open_incident(context: Context, state: State, verdict: Verdict) -> tuple[State, str, tuple[IncidentEvent, ...]]:
    """The state with an open incident, its id, and the lines to write. What happens while one is open belongs to it: an
    incident lasts until the cluster is whole again."""
    known = context.state.incident
    if known is None:
        incident = f"i{context.state.revision + 1}"
        state = msgspec.structs.replace(
            state,
            incident=incident,
            incident_verdict=verdict,
            incident_since_ms=context.now_ms,
            incident_receipts=None,
            incident_receipts_are_new=False,
        )
        return state, incident, (context.event(incident, "opened", verdict.sentence, verdict),)
    before = context.state.incident_verdict
    if before is not None and (before.kind, before.node) == (verdict.kind, verdict.node):
        return state, known, ()
    state = msgspec.structs.replace(state, incident_verdict=verdict)
    return state, known, (context.event(known, "verdict.changed", verdict.sentence, verdict),)


def note_receipts(context: Context) -> Plan | None:
    """What the servers found goes into the record of the incident that is open."""
    state = context.state
    if state.incident is None or state.transition is not None or not context.is_open_primary():
        return None
    check = checked_receipts(state, context.observation)
    if check is None:
        return None
    are_new = began_ms(state, context.observation) >= state.incident_since_ms
    if (check, are_new) == (state.incident_receipts, state.incident_receipts_are_new):
        return None
    sentence = sentence_of(check)
    event = msgspec.structs.replace(context.event(state.incident, "receipts.checked", sentence), receipts=check)
    state = msgspec.structs.replace(state, incident_receipts=check, incident_receipts_are_new=are_new)
    return Plan("incident.receipts", sentence, state, events=(event,))


def may_close(context: Context) -> bool:
    """The receipts were compared in this term, on this start of the primary, and nothing is missing."""
    check = context.state.incident_receipts
    return check is not None and check == checked_receipts(context.state, context.observation) and is_whole(check)


def with_outage(context: Context, plan: Plan | None) -> Plan | None:
    """The first step of bringing a primary back that ended although nobody had asked for it opens the record."""
    name = context.state.primary
    report = context.report(name)
    if plan is None or report is None or plan.state.incident is not None or report.exit_sentence is None:
        return plan
    verdict = diagnose_primary(context)
    if verdict is None or not context.state.history:
        return plan
    state, _, events = open_incident(context, plan.state, verdict)
    return replace(plan, state=state, events=(*events, *plan.events))


def note_damage(context: Context) -> Plan | None:
    """A primary that is damaged and that nothing may replace now: it serves on, and the record begins."""
    name = context.state.primary
    if name is None or not convicting_faults(context, name):
        return None
    known = context.state.incident_verdict
    if context.state.incident is not None and (known is None or known.node == name):
        return None  # what a standby suffered, its primary may have caused: that comes to the record that is open
    verdict = diagnose_primary(context)
    if verdict is None:
        return None
    state, _, events = open_incident(context, context.state, verdict)
    return Plan("incident.opened", verdict.sentence, state, events=events)


def note_cause_of_death(context: Context) -> Plan | None:
    """A death that the record calls one had a cause, which is known by now. Nothing else waits for it."""
    state, known = context.state, context.state.incident_verdict
    if (
        state.incident is None
        or state.transition is not None
        or known is None
        or known.kind is not FaultKind.PROCESS_DEAD
    ):
        return None
    verdict = diagnose_dead(context, known.node)
    if verdict is None:
        return None
    state, _, events = open_incident(context, state, verdict)
    return Plan("incident.cause_found", verdict.sentence, state, events=events)


def note_standby_damage(context: Context) -> Plan | None:
    """A standby carries proved damage: the rules of its own life rebuild it, and the record begins."""
    state = context.state
    if state.incident is not None or state.transition is not None or state.primary is None:
        return None
    for name in context.others(state.primary):
        verdict = diagnose_standby(context, name)
        if verdict is not None:
            opened, _, events = open_incident(context, state, verdict)
            return Plan("incident.opened", verdict.sentence, opened, events=events)
    return None
