"""`GET /v1/cluster`: what the outside is shown, from state, observation and what stands beside them. Pure."""

from __future__ import annotations

import msgspec

from failover.core.model import Alarm, Observation, Policy, State
from failover.core.view import NodeView, next_step, node_view, phase
from replication.model import CompareStatus, LedgerStatus, ScrubStatus
from replication.topology import Phase

_FRESH_SERVER_MS = 3_000


class Storage(msgspec.Struct, frozen=True):
    """The disk under a node's data; `full_in_s` at the pace of the last minutes, None while it does not fill up."""

    bytes_free: int | None
    bytes_total: int | None
    full_in_s: int | None


class ShownNode(NodeView, frozen=True, kw_only=True):
    """A node's line with what the core does not need. `lease_expires_in_ms`: of the open primary's node lease."""

    storage: Storage
    scrub: ScrubStatus | None = None
    ledger: LedgerStatus | None = None
    comparison_of_pages: CompareStatus | None = None
    lease_expires_in_ms: int | None = None
    silence: str | None = None
    doing: str | None = None


class OpenIncident(msgspec.Struct, frozen=True):
    id: str
    sentence: str


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """DESIGN section 7. `confirming`: the names that must confirm every write; empty while the primary serves alone."""

    at: str
    term: int
    revision: int
    primary: str | None
    phase: Phase
    paused: bool
    nodes: dict[str, ShownNode]
    confirming: tuple[str, ...]
    open_incident: OpenIncident | None
    alarms: tuple[Alarm, ...]
    held_requests: int
    server_terms: dict[str, int]
    next_step: str | None
    pause_ends_in_ms: int | None = None
    pause_reason: str = ""


def cluster_view(
    state: State,
    observation: Observation,
    policy: Policy,
    alarms: tuple[Alarm, ...],
    full_in_s: dict[str, int | None],
) -> ClusterView:
    """The whole answer."""
    fresh = [seen.report for seen in observation.servers if seen.age_ms <= _FRESH_SERVER_MS]
    primary = observation.nodes.get(state.primary or "")
    pause_ms = (state.paused_until_ms or 0) - observation.now_ms
    verdict = state.incident_verdict
    return ClusterView(
        at=observation.at,
        term=state.term,
        revision=state.revision,
        primary=state.primary,
        phase=phase(state, observation, policy),
        paused=pause_ms > 0,
        pause_ends_in_ms=pause_ms if pause_ms > 0 else None,
        pause_reason=state.pause_reason if pause_ms > 0 else "",
        nodes={name: _shown(state, observation, name, policy, full_in_s.get(name)) for name in sorted(state.nodes)},
        confirming=primary.names if primary is not None else (),
        open_incident=(
            OpenIncident(state.incident, verdict.sentence if verdict is not None else "")
            if state.incident is not None
            else None
        ),
        alarms=alarms,
        held_requests=sum(report.held_requests for report in fresh),
        server_terms={report.server: report.term for report in fresh},
        next_step=next_step(state, observation, policy),
    )


def _shown(state: State, observation: Observation, name: str, policy: Policy, full_in_s: int | None) -> ShownNode:
    report, silence = observation.nodes.get(name), observation.silence.get(name)
    return ShownNode(
        **msgspec.structs.asdict(node_view(state, observation, name, policy)),
        storage=Storage(
            report.bytes_free if report is not None else None,
            report.bytes_total if report is not None else None,
            full_in_s,
        ),
        scrub=report.scrub if report is not None else None,
        ledger=report.ledger if report is not None else None,
        comparison_of_pages=report.comparison_of_pages if report is not None else None,
        lease_expires_in_ms=report.lease_expires_in_ms if report is not None else None,
        silence=silence.value if silence is not None else None,
        doing=report.doing.op if report is not None and report.doing is not None else None,
    )
