"""The cluster as the agents see it, when no controller answers: what is known, from whom, and how old it is."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import msgspec

from replication.model import NodeReport, Postmaster, format_lsn
from replication.wire.errors import WireError
from replication.wire.http import get_bytes

_ASK_MS = 1_000
_NOTHING_RUNS = "nothing runs here: start everything with `locum up`"


async def cluster_by_agents(session: aiohttp.ClientSession, agents: dict[str, str], error: str) -> dict[str, Any]:
    """In the shape of GET /v1/cluster, with None for what only a controller knows, and `controller_error`."""
    reports = await asyncio.gather(*(_ask(session, url) for url in agents.values()))
    by_name = dict(zip(agents, reports, strict=True))
    return describe(by_name, error)


def describe(reports: dict[str, NodeReport | None], error: str) -> dict[str, Any]:
    """Pure: the view of these reports. No phase is claimed, since deciding it is the controller's."""
    known = [report for report in reports.values() if report is not None]
    primaries = [report.node for report in known if report.in_recovery is False]
    return {
        "controller_error": error,
        "term": max((report.term for report in known), default=None),
        "primary": primaries[0] if len(primaries) == 1 else None,
        "phase": "unknown",
        "paused": None,
        "nodes": {name: _node(report) for name, report in reports.items()},
        "next_step": "run `locum up`; while it runs it restarts a controller that died" if known else _NOTHING_RUNS,
    }


def _node(report: NodeReport | None) -> dict[str, Any]:
    if report is None:
        return {"role": None, "state": "unreachable", "eligible": None, "faults": []}
    running = report.postmaster is Postmaster.RUNNING
    role = None if report.in_recovery is None else ("standby" if report.in_recovery else "primary")
    return {
        "role": role or report.configured_role,
        "state": "running" if running else ("fenced" if report.fenced else "stopped"),
        "stage": report.stage,
        "timeline": report.timeline,
        "flush_lsn": _lsn(report.flush_lsn if report.flush_lsn is not None else report.receive_lsn),
        "replay_lsn": _lsn(report.replay_lsn),
        "eligible": None,
        "age_ms": None if report.sql is None else report.sql.age_ms,
        "faults": [msgspec.to_builtins(fault) for fault in report.faults],
    }


def _lsn(value: int | None) -> str | None:
    return None if value is None else format_lsn(value)


async def _ask(session: aiohttp.ClientSession, url: str) -> NodeReport | None:
    try:
        status, body = await get_bytes(session, f"{url}/v1/observe", deadline_ms=_ASK_MS)
        return msgspec.json.decode(body, type=NodeReport) if status == 200 else None
    except (WireError, msgspec.DecodeError):
        return None
