"""Incidents: the lines that a decision adds while one is open, and the record that they make up. Pure.

`outage_ms` is measured by the controller: from the detection, less the time for which a server had already reported its
writes as failing, to the publication of the topology that names the new primary. Clients see the time until their server
has connected there on top of it; the drill engine measures that from outside.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from failover.core.model import Decision, IncidentEvent, Observation, State, Verdict
from replication.actions import op_name
from replication.model import Cause, ReceiptCheck

OUTAGE_BEGAN = "outage.began"
OUTAGE_ENDED = "outage.ended"
_ACTION = "action."
_STARTS = ("start.", "no_primary")
_FRESH_SERVER_MS = 3_000
_TOLD_BY_THE_CORE = (
    "failover.begin",
    "failover.promoted",
    "incident.closed",
    "command.close_incident",
    "incident.receipts",
)


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of an incident's timeline."""

    at: str
    event: str
    sentence: str
    node: str | None = None


class TakenAction(msgspec.Struct, frozen=True):
    """An action that was decided while the incident was open."""

    at: str
    node: str
    op: str
    revision: int


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """The record of DESIGN section 7. `receipts`: the newest comparison; None until every server has made one."""

    id: str
    opened_at: str
    closed_at: str | None
    node: str | None
    verdict: Verdict | None
    timeline: tuple[Line, ...]
    outage_ms: int | None
    receipts: ReceiptCheck | None = None
    actions: tuple[TakenAction, ...] = ()


def lines_of(before: State, after: State, decision: Decision, observation: Observation) -> tuple[IncidentEvent, ...]:
    """What this decision adds to the incident that is open before or after it: its events, its kind, its actions."""
    incident = after.incident or before.incident
    if incident is None:
        return decision.incident_events
    lines = list(decision.incident_events)
    if _begins_outage(before, after, decision):
        lines.append(_outage_began(incident, observation))
    if (decision.actions or decision.replies) and decision.kind not in _TOLD_BY_THE_CORE:
        lines.append(_line(incident, observation, decision.kind, decision.sentence))
    for action in decision.actions:
        op = op_name(action.op)
        told = _line(incident, observation, _ACTION + op, f"{op} on {action.node}, revision {action.revision}")
        lines.append(msgspec.structs.replace(told, node=action.node, revision=action.revision))
    return tuple(lines)


def _begins_outage(before: State, after: State, decision: Decision) -> bool:
    """From here on nobody serves until the candidate does, or the primary that is brought back."""
    if decision.kind.startswith(_STARTS) and any(line.event == "opened" for line in decision.incident_events):
        return True
    was = before.transition is not None and before.transition.step == "promoting"
    now = after.transition
    return not was and now is not None and now.step == "promoting" and now.incident is not None


def outage_ended(incident: str, now_ms: int, at: str, primary: str) -> IncidentEvent:
    """The line that is written once the topology with the new primary was published."""
    sentence = f"Servers were told that {primary} is primary."
    return IncidentEvent(incident=incident, at=at, now_ms=now_ms, event=OUTAGE_ENDED, sentence=sentence, node=primary)


def has_open_outage(lines: Iterable[IncidentEvent]) -> bool:
    """An outage began and its end was not written, as after the death of a controller."""
    is_open = False
    for line in lines:
        is_open = (is_open or line.event == OUTAGE_BEGAN) and line.event != OUTAGE_ENDED
    return is_open


def build(lines: Iterable[IncidentEvent]) -> list[Incident]:
    """The records that these lines make up, newest last."""
    by_incident: dict[str, list[IncidentEvent]] = {}
    for line in lines:
        by_incident.setdefault(line.incident, []).append(line)
    return [_record(incident, found) for incident, found in by_incident.items()]


def _record(incident: str, lines: list[IncidentEvent]) -> Incident:
    first = {line.event: line for line in reversed(lines)}
    verdict = _verdict([line.verdict for line in lines if line.verdict is not None])
    closed = first.get("closed")
    return Incident(
        id=incident,
        opened_at=lines[0].at,
        closed_at=closed.at if closed is not None else None,
        node=verdict.node if verdict is not None else None,
        verdict=verdict,
        timeline=tuple(
            Line(line.at, line.event, line.sentence, line.node) for line in lines if not line.event.startswith(_ACTION)
        ),
        outage_ms=_outage_ms(lines),
        receipts=next((line.receipts for line in reversed(lines) if line.receipts is not None), None),
        actions=tuple(
            TakenAction(line.at, line.node or "", line.event.removeprefix(_ACTION), line.revision or 0)
            for line in lines
            if line.event.startswith(_ACTION)
        ),
    )


def _verdict(verdicts: list[Verdict]) -> Verdict | None:
    """The first, unless a later one found the damage behind a dead process or a silent path."""
    deeper = (verdict for verdict in verdicts if verdict.cause in (Cause.CORRUPTION, Cause.STORAGE))
    return next(deeper, verdicts[0] if verdicts else None)


def _outage_ms(lines: list[IncidentEvent]) -> int | None:
    """All outages of this incident together; None while none has ended."""
    total, began = None, None
    for line in lines:
        if line.event == OUTAGE_BEGAN:
            began = line.now_ms if began is None else began
        elif line.event == OUTAGE_ENDED and began is not None:
            total, began = (total or 0) + max(0, line.now_ms - began), None
    return total


def _outage_began(incident: str, observation: Observation) -> IncidentEvent:
    failing_ms = max(
        (
            seen.report.writes_failing_ms + seen.age_ms
            for seen in observation.servers
            if seen.report.writes_failing_ms is not None and seen.age_ms <= _FRESH_SERVER_MS
        ),
        default=0,
    )
    sentence = f"Writes had been failing for {failing_ms} ms." if failing_ms else "Detected; no server had failed yet."
    line = _line(incident, observation, OUTAGE_BEGAN, sentence)
    return msgspec.structs.replace(line, now_ms=observation.now_ms - failing_ms)


def _line(incident: str, observation: Observation, event: str, sentence: str) -> IncidentEvent:
    return IncidentEvent(
        incident=incident, at=observation.at, now_ms=observation.now_ms, event=event, sentence=sentence
    )
