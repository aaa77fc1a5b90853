"""The table of `locum status`: pure, from the JSON of GET /v1/cluster to something that rich prints."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_PHASE_COLOURS = {"healthy": "green", "no_primary": "bold red", "unknown": "magenta"}
_COLUMNS = ("node", "role", "state", "eligible", "timeline", "flush", "replay", "lag", "remarks")


def render(cluster: dict[str, Any]) -> RenderableType:
    """One line on the cluster, a row a node, then alarms, the open incident and the next step to take."""
    lines: list[RenderableType] = [_headline(cluster), _nodes(cluster)]
    lines += [
        Text(f"alarm    {alarm.get('name')}: {alarm.get('sentence')} (since {alarm.get('since')})", "red")
        for alarm in cluster.get("alarms") or []
    ]
    if incident := cluster.get("open_incident"):
        lines.append(Text(f"incident {incident.get('id')}: {incident.get('sentence')}", "yellow"))
    if step := cluster.get("next_step"):
        lines.append(Text(f"next     {step}", "bold"))
    return Group(*lines)


def _headline(cluster: dict[str, Any]) -> Text:
    phase = str(cluster.get("phase"))
    text = Text.assemble(
        ("phase ", "dim"), (phase, _PHASE_COLOURS.get(phase, "yellow")), f"   term {_or_dash(cluster.get('term'))}"
    )
    text.append(f"   primary {_or_dash(cluster.get('primary'))}")
    if confirming := cluster.get("confirming"):
        names = confirming if isinstance(confirming, str) else ", ".join(confirming)
        text.append(f"   confirming {names}")
    if held := cluster.get("held_requests"):
        text.append(f"   held requests {held}", "yellow")
    if cluster.get("paused"):
        text.append("   paused", "bold yellow")
    if error := cluster.get("controller_error"):
        text.append(f"\nthe controller does not answer ({error}); this is what the agents say", "magenta")
    return text


def _nodes(cluster: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column in ("timeline", "flush", "replay", "lag") else "left")
    for name, node in sorted((cluster.get("nodes") or {}).items()):
        table.add_row(
            name,
            _or_dash(node.get("role")),
            _state(node),
            "-" if node.get("role") == "primary" else {True: "yes", False: "no"}.get(node.get("eligible"), "?"),
            _or_dash(node.get("timeline")),
            _or_dash(node.get("flush_lsn")),
            _or_dash(node.get("replay_lsn")),
            _bytes(node.get("lag_bytes")),
            Text(_remarks(node)),
        )
    return table


def _state(node: dict[str, Any]) -> str:
    state = _or_dash(node.get("state"))
    stage = node.get("stage")
    if state == "running" and stage in ("closed", "replicating"):
        return f"running ({stage})"
    progress = node.get("progress")
    return f"{state} {progress:.0%}" if isinstance(progress, int | float) else state


def _remarks(node: dict[str, Any]) -> str:
    faults = [str(fault.get("sentence") or fault.get("kind")) for fault in node.get("faults") or []]
    if node.get("role") == "standby" and not node.get("promotable") and node.get("eligible_reason"):
        faults.append(str(node["eligible_reason"]))
    if (age := node.get("age_ms")) is not None:
        faults.append(f"seen {age} ms ago")
    return "; ".join(faults)


def _bytes(value: Any) -> str:
    if not isinstance(value, int):
        return "-"
    return f"{value} B" if value < 10_240 else f"{value // 1024} kB"


def _or_dash(value: Any) -> str:
    return "-" if value is None else str(value)
