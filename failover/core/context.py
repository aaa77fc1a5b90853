"""One tick's view of the cluster: state, observation and policy, with the questions that every rule asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from failover.core.model import (
    Alarm,
    IncidentEvent,
    NodeRecord,
    Observation,
    Policy,
    Reply,
    State,
    Verdict,
)
from replication.actions import Op
from replication.model import NodeReport, Postmaster, Stage, Walsender

STOPPED = (Postmaster.ABSENT, Postmaster.EXITED)


@dataclass(frozen=True)
class Plan:
    """What a rule wants: the row of the transition table, why, the state to journal, and at most one op a node."""

    kind: str
    sentence: str
    state: State
    ops: Mapping[str, Op] = field(default_factory=dict)
    events: tuple[IncidentEvent, ...] = ()
    replies: tuple[Reply, ...] = ()


@dataclass(frozen=True)
class Context:
    """The inputs of one tick, after settling what earlier actions did."""

    state: State
    observation: Observation
    policy: Policy

    @property
    def now_ms(self) -> int:
        return self.state.now_ms

    @property
    def is_paused(self) -> bool:
        """An operator paused promotions, in-place starts and rebuilds."""
        until = self.state.paused_until_ms
        return until is not None and self.now_ms < until

    def report(self, name: str | None) -> NodeReport | None:
        """What the node's agent says now; None when it is silent."""
        return self.observation.nodes.get(name) if name is not None else None

    def record(self, name: str) -> NodeRecord:
        return self.state.nodes[name]

    def others(self, name: str | None) -> list[str]:
        """Every other node, by name."""
        return sorted(node for node in self.state.nodes if node != name)

    def is_idle(self, name: str) -> bool:
        """Its agent answers, and nothing is pending or under way there."""
        report = self.report(name)
        return report is not None and self.record(name).pending is None and report.doing is None

    def is_free(self, name: str) -> bool:
        """An action may be sent to this node now: it is idle, and no delay after a failure runs."""
        return self.is_idle(name) and self.now_ms >= self.record(name).retry_after_ms

    def is_stopped(self, name: str) -> bool:
        """Its agent says that no postmaster runs."""
        report = self.report(name)
        return report is not None and report.postmaster in STOPPED

    def is_open_primary(self) -> bool:
        """The primary's agent shows it running, out of recovery and open."""
        report = self.report(self.state.primary)
        return (
            report is not None
            and report.postmaster is Postmaster.RUNNING
            and report.in_recovery is False
            and report.stage is Stage.OPEN
        )

    def event(self, incident: str, event: str, sentence: str, verdict: Verdict | None = None) -> IncidentEvent:
        """A line of an incident's timeline, at this tick."""
        node = verdict.node if verdict is not None else None
        return IncidentEvent(
            incident=incident,
            at=self.observation.at,
            now_ms=self.now_ms,
            event=event,
            sentence=sentence,
            node=node,
            verdict=verdict,
        )


def with_node(state: State, name: str, **changes: object) -> State:
    """The state with one node's record changed."""
    record = msgspec.structs.replace(state.nodes[name], **changes)
    return msgspec.structs.replace(state, nodes={**state.nodes, name: record})


def with_alarm(state: State, name: str, since: str, sentence: str | None) -> State:
    """The state with this alarm raised, or cleared when `sentence` is None; a raised one keeps its `since`."""
    kept = tuple(alarm for alarm in state.alarms if alarm.name != name)
    if sentence is None:
        return state if len(kept) == len(state.alarms) else msgspec.structs.replace(state, alarms=kept)
    if any(alarm.name == name and alarm.sentence == sentence for alarm in state.alarms):
        return state
    return msgspec.structs.replace(state, alarms=(*kept, Alarm(name, since, sentence)))


def disqualified(state: State, name: str, reason: str) -> State:
    """The state with "not eligible" journalled: it precedes every relax and every rebuild (DESIGN section 4)."""
    return with_node(
        state, name, eligible=False, eligible_reason=reason, eligible_incarnation=None, grown_walsender=None
    )


def standby_name(name: str, generation: int) -> str:
    """The name under which a standby confirms writes: `b_g7`, never used twice (DESIGN section 4, who may confirm)."""
    return f"{name}_g{generation}"


def slot_name(name: str) -> str:
    """The physical slot of a standby on its primary."""
    return f"locum_{name}"


def walsender_of(report: NodeReport, name: str) -> Walsender | None:
    """The primary's walsender of exactly this name."""
    return next((sender for sender in report.walsenders if sender.name == name), None)
