"""Faults of a node: journalled when they are seen, because they stay until the node's content was replaced. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from failover.core.candidate import UNFIT_FAULTS
from failover.core.context import Context, with_node
from failover.core.model import NodeRecord, Observation, State
from replication.model import Fault, FaultKind, Place

PLACES_MAX = 20
_FRESH_SERVER_MS = 3_000
CONVICTING = UNFIT_FAULTS - {FaultKind.WAL_LOST, FaultKind.DIVERGED, FaultKind.REDO_FAILED} | {FaultKind.READ_ONLY}
"""With one of these a primary is replaced. The three others are a standby's, or found before a start."""


def note_faults(state: State, observation: Observation) -> State:
    """What agents and servers report and what only a rebuild, or another disk, can end. An agent forgets it when it dies;
    the store does not."""
    for name in sorted(state.nodes):
        report = observation.nodes.get(name)
        seen = [
            *(report.faults if report is not None else ()),
            *_seen_by_servers(state, observation, name),
            *_proved_by_standbys(state, observation, name),
        ]
        lasting = [fault for fault in seen if fault.kind in UNFIT_FAULTS and fault.is_proof]
        faults = _merged(state.nodes[name].faults, lasting)
        if faults != state.nodes[name].faults:
            state = with_node(state, name, faults=faults)
    return state


def convicting_faults(context: Context, name: str) -> tuple[Fault, ...]:
    """Faults for which this node must not go on as primary, oldest first; not those for which the policy wants an alarm only."""
    report = context.report(name)
    faults = (*context.record(name).faults, *(report.faults if report is not None else ()))
    kinds = CONVICTING - set(context.policy.alarm_only)
    return tuple(fault for fault in faults if fault.kind in kinds and fault.is_proof)


def damaged_places(record: NodeRecord) -> tuple[Place, ...]:
    """Everything that was named as damaged on this node."""
    return tuple(place for fault in record.faults for place in fault.places)


def places_of_maps(record: NodeRecord) -> tuple[Place, ...]:
    """Where a visibility map is proved wrong on this node."""
    wrong = [fault for fault in record.faults if fault.kind is FaultKind.VM_CORRUPT and fault.is_proof]
    return tuple(place for fault in wrong for place in fault.places)


def _seen_by_servers(state: State, observation: Observation, name: str) -> list[Fault]:
    """What this term's primary itself answered to a server's own statements."""
    if name != state.primary or state.transition is not None:
        return []
    return [
        fault
        for seen in observation.servers
        if seen.age_ms <= _FRESH_SERVER_MS and seen.report.term == state.term and seen.report.primary == name
        for fault in seen.report.faults
    ]


def _proved_by_standbys(state: State, observation: Observation, name: str) -> list[Fault]:
    """What this term's primary has written into the WAL that its standbys received."""
    if name != state.primary or state.transition is not None:
        return []
    primary = observation.nodes.get(name)
    return [
        fault
        for report in observation.nodes.values()
        if report is not None and report.node != name and report.in_recovery and report.upstream_faults
        if primary is None or report.timeline == primary.timeline
        for fault in report.upstream_faults
    ]


def _merged(known: tuple[Fault, ...], seen: Iterable[Fault]) -> tuple[Fault, ...]:
    """One fault a kind, as it was first seen, with every place that was named."""
    merged = {fault.kind: fault for fault in known}
    for fault in seen:
        old = merged.setdefault(fault.kind, fault)
        new = tuple(place for place in fault.places if place not in old.places)
        if new:
            places = (*old.places, *new)[:PLACES_MAX]
            merged[fault.kind] = msgspec.structs.replace(old, places=places)
    return tuple(merged.values())
