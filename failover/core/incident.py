"""The incident: opened with its verdict when something is done or must be known, closed when the cluster is whole again."""

from __future__ import annotations

import msgspec

from failover.core.context import Context, Plan
from failover.core.diagnose import diagnose_primary
from failover.core.model import IncidentEvent, State, Verdict
from failover.core.node_faults import convicting_faults


def open_incident(context: Context, state: State, verdict: Verdict) -> tuple[State, str, tuple[IncidentEvent, ...]]:
    """The state with an open incident, its id, and the lines to write. What happens while one is open belongs to it: an
    incident lasts until the cluster is whole again."""
    known = context.state.incident
    if known is None:
        incident = f"i{context.state.revision + 1}"
        state = msgspec.structs.replace(state, incident=incident, incident_verdict=verdict)
        return state, incident, (context.event(incident, "opened", verdict.sentence, verdict),)
    before = context.state.incident_verdict
    if before is not None and (before.kind, before.node) == (verdict.kind, verdict.node):
        return state, known, ()
    state = msgspec.structs.replace(state, incident_verdict=verdict)
    return state, known, (context.event(known, "verdict.changed", verdict.sentence, verdict),)


def note_damage(context: Context) -> Plan | None:
    """A primary that is damaged and that nothing may replace now: it serves on, and the record begins."""
    name = context.state.primary
    if name is None or context.state.incident is not None or not convicting_faults(context, name):
        return None
    verdict = diagnose_primary(context)
    if verdict is None:
        return None
    state, _, events = open_incident(context, context.state, verdict)
    return Plan("incident.opened", verdict.sentence, state, events=events)
