"""An incident for a person: a row of the list, and the whole as Markdown. Pure."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def table(incidents: list[dict[str, Any]]) -> Table:
    """One row an incident, newest last."""
    drawn = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("id", "opened", "closed", "node", "verdict", "outage"):
        drawn.add_column(column)
    for incident in incidents:
        verdict = incident.get("verdict") or {}
        drawn.add_row(
            str(incident.get("id")),
            str(incident.get("opened_at")),
            str(incident.get("closed_at") or "open"),
            str(incident.get("node") or "-"),
            str(verdict.get("sentence") or verdict.get("kind") or "-"),
            _outage(incident),
        )
    return drawn


def markdown(incident: dict[str, Any]) -> str:
    """Verdict with evidence and what was ruled out, outage, timeline and actions."""
    verdict = incident.get("verdict") or {}
    lines = [
        f"# Incident {incident.get('id')}",
        "",
        f"- opened {incident.get('opened_at')}, closed {incident.get('closed_at') or 'not yet'}",
        f"- node {incident.get('node') or '-'}, outage {_outage(incident)}",
        "",
        "## Verdict",
        "",
        f"{verdict.get('sentence', 'none yet')} (cause {verdict.get('cause', '-')}, kind {verdict.get('kind', '-')}, "
        f"confidence {verdict.get('confidence', '-')})",
        "",
    ]
    lines += [
        f"- {item.get('what')}: {item.get('value')} (by {item.get('by')}, {item.get('at')})"
        for item in verdict.get("evidence") or []
    ]
    lines += [f"- not {item.get('cause')}: {item.get('by')}" for item in verdict.get("ruled_out") or []]
    lines += ["", "## Receipts", "", _receipts(incident), "", "## Timeline", ""]
    lines += [
        f"- {event.get('at')} `{event.get('event')}` {event.get('sentence', '')}".rstrip()
        for event in incident.get("timeline") or []
    ]
    lines += ["", "## Actions", ""]
    lines += [
        f"- {action.get('at')} {action.get('op')} on {action.get('node')} (revision {action.get('revision')})"
        for action in incident.get("actions") or []
    ]
    return "\n".join(lines)


def _receipts(incident: dict[str, Any]) -> str:
    found = incident.get("receipts")
    if not found:
        return "Not compared yet: the incident stays open until they are."
    told = ", ".join(
        f"{found.get(field)} {field.replace('_', '-')}"
        for field in ("acknowledged", "present", "restored", "lost", "double_booked", "sealed")
    )
    missing = "".join(f"\n- missing, older or altered: Appointment/{name}" for name in found.get("missing") or [])
    structure = found.get("structure")
    if structure is not None:
        told += "; amcheck of the booking tables: " + ("; ".join(structure) or "nothing found")
    if found.get("reindexed"):
        told += "; made anew: the indexes of " + ", ".join(found["reindexed"])
    return told + missing


def _outage(incident: dict[str, Any]) -> str:
    outage = incident.get("outage_ms")
    return "-" if outage is None else f"{outage} ms"
