"""Starting a primary: the first start, and the closed start of one that died while nothing may replace it.

Closed → replicating → open (DESIGN section 4, starting a primary). The lone rule in full needs receipts; until they
exist a lone primary opens only after a planned stop that its agent remembers and proves intact.
"""

from __future__ import annotations

import msgspec

from failover.core.candidate import is_eligible
from failover.core.context import Context, Plan, slot_name, standby_name, walsender_of, with_alarm, with_node
from failover.core.failing_over import begin_failover
from failover.core.model import State, TermRecord, Verdict
from replication.actions import ApplySchema, CompareWal, InitDb, SetStage, StartPrimary
from replication.model import (
    Cause,
    Comparison,
    DataDirectory,
    Evidence,
    FaultKind,
    NodeReport,
    Postmaster,
    Stage,
)


def first_start(context: Context) -> Plan | None:
    """Name a primary, make its data directory. Only while the store holds no system identifier."""
    state = context.state
    if state.system_identifier is not None:
        return None
    if state.primary is None:
        name = min(state.nodes)
        state = msgspec.structs.replace(state, primary=name, term=1)
        return Plan("start.named", f"First start: {name} is to be the primary, term 1.", state)
    report = context.report(state.primary)
    if report is None or not context.is_free(state.primary):
        return None
    if report.data is DataDirectory.EMPTY:
        state = with_node(state, state.primary, may_open_alone=True)
        return Plan(
            "start.initdb",
            f"First start: making the cluster on {state.primary}.",
            state,
            {state.primary or "": InitDb()},
        )
    return None


def start_dead_primary(context: Context) -> Plan | None:
    """In place, closed, when nothing promotable may replace it; after the comparison of WAL when a peer is eligible."""
    name = context.state.primary
    if name is None or context.state.transition is not None or context.state.system_identifier is None:
        return None
    report = context.report(name)
    if report is None or not context.is_stopped(name) or not context.is_free(name) or context.is_paused:
        return None
    if report.fence_held or context.record(name).fence_held:
        return _alarm(context, f"{name} is fenced by an operator; next: locum unfence {name}")
    if report.data is not DataDirectory.PRESENT:
        return _alarm(
            context,
            f"the data directory of {name} is {report.data.value}; next: locum failover --to NODE --accept-data-loss",
        )
    peer = next((other for other in context.others(name) if is_eligible(context.record(other))), None)
    if not context.state.schema_applied:
        return _start(context, name, (), may_open_alone=True)
    if peer is None:
        return _start(context, name, (), may_open_alone=lone_start_is_proved(context, name, report))
    return _compare_then_start(context, name, report, peer)


def lone_start_is_proved(context: Context, name: str, report: NodeReport) -> bool:
    """It was stopped by its agent, pg_control still says so, and its WAL reaches everything that was ever seen.

    The conditions of the lone rule that have a value without receipts (DESIGN section 4).
    """
    stop, record = report.planned_stop, context.record(name)
    if stop is None or not stop.intact:
        return False
    timeline = context.state.history[-1].timeline if context.state.history else None
    if timeline is not None and stop.timeline != timeline:
        return False
    seen = [record.confirmed_flush_lsn if record.confirmed_timeline == stop.timeline else None]
    seen += [
        context.record(other).confirmed_flush_lsn
        for other in context.others(name)
        if context.record(other).confirmed_timeline == stop.timeline
    ]
    if report.last_observed_timeline == stop.timeline:
        seen.append(report.last_observed_flush_lsn)
    # A shutdown checkpoint record follows whatever was flushed before it.
    return all(lsn is None or lsn <= stop.checkpoint_lsn + _SHUTDOWN_RECORD_BYTES_MAX for lsn in seen)


_SHUTDOWN_RECORD_BYTES_MAX = 8_192


def _compare_then_start(context: Context, name: str, report: NodeReport, peer: str) -> Plan | None:
    record, other = context.record(name), context.report(peer)
    if other is None:
        return _alarm(context, f"{name} is stopped and {peer}, which is eligible, cannot be asked; bring its host back")
    comparison = report.comparison
    fresh = (
        comparison is not None
        and comparison.revision == record.compared_revision
        and comparison.peer_incarnation == other.incarnation
    )
    if not fresh or comparison is None:
        return Plan(
            "start.compare",
            f"Comparing the WAL of {name} with that of {peer} before a start.",
            context.state,
            {name: CompareWal(peer=peer)},
        )
    if comparison.outcome is Comparison.EQUAL:
        return _start(context, name, (peer,), may_open_alone=False)
    if comparison.outcome is Comparison.WAL_LOST:
        return begin_failover(context, peer, _wal_lost(context, name, peer, comparison.sentence))
    state = with_node(
        context.state, name, compared_revision=None, retry_after_ms=context.now_ms + context.policy.retry_ms
    )
    return Plan("start.compare_again", comparison.sentence, state)


def _wal_lost(context: Context, name: str, peer: str, sentence: str) -> Verdict:
    return Verdict(
        cause=Cause.CORRUPTION,
        kind=FaultKind.WAL_LOST,
        node=name,
        confidence=1.0,
        sentence=f"Node {name} has lost the end of its WAL: {sentence}",
        evidence=(Evidence("WAL comparison", f"agents {name} and {peer}", context.observation.at, sentence),),
    )


def _start(context: Context, name: str, peers: tuple[str, ...], *, may_open_alone: bool) -> Plan:
    state = with_node(context.state, name, may_open_alone=may_open_alone, compared_revision=None)
    names = []
    for peer in peers:
        generation = state.nodes[peer].generation + 1
        state = with_node(state, peer, generation=generation, lost_since_ms=None)
        names.append(standby_name(peer, generation))
    slots = tuple(slot_name(other) for other in context.others(name))
    sentence = f"Starting {name} closed, {'waiting for ' + names[0] if names else 'alone'}."
    return Plan("start.closed", sentence, state, {name: StartPrimary(names=tuple(names), slots=slots)})


def open_primary(context: Context) -> Plan | None:
    """A running primary that is not open yet: schema, then replicating with its standby, then open."""
    name = context.state.primary
    report = context.report(name)
    if name is None or report is None or report.postmaster is not Postmaster.RUNNING or report.in_recovery is not False:
        return None
    if report.stage is Stage.OPEN:
        return _note_open(context, name, report)
    if not context.is_free(name) or report.incarnation is None:
        return None
    if not context.state.schema_applied:
        return Plan(
            "start.schema",
            f"Applying schema and roles on {name}.",
            context.state,
            {name: ApplySchema(report.incarnation)},
        )
    if report.names:
        return _open_with_standby(context, name, report)
    if context.record(name).may_open_alone and not any(is_eligible(context.record(o)) for o in context.others(name)):
        op = SetStage(stage=Stage.OPEN, incarnation=report.incarnation)
        return Plan("start.open_alone", f"Opening {name} alone: nothing else is eligible.", context.state, {name: op})
    return _alarm(
        context,
        f"{name} died alone and stays closed, since nothing proves that its disk lost nothing; "
        f"next: locum failover --to {name} --accept-data-loss",
    )


def _open_with_standby(context: Context, name: str, report: NodeReport) -> Plan | None:
    incarnation = report.incarnation or ""
    if report.stage is Stage.CLOSED:
        op = SetStage(stage=Stage.REPLICATING, incarnation=incarnation)
        return Plan("start.replicating", f"Letting the standby of {name} stream.", context.state, {name: op})
    sender = walsender_of(report, report.names[0])
    if sender is None or sender.state != "streaming":
        return None
    op = SetStage(stage=Stage.OPEN, incarnation=incarnation)
    return Plan("start.open", f"{report.names[0]} streams: opening {name}.", context.state, {name: op})


def _note_open(context: Context, name: str, report: NodeReport) -> Plan | None:
    """The first open of term 1 is journalled as its history; an old alarm goes."""
    state: State = with_alarm(context.state, "no_primary", context.observation.at, None)
    if not state.history:
        record = TermRecord(state.term, name, report.timeline, None)
        state = msgspec.structs.replace(state, history=(record,))
    if state is context.state:
        return None
    return Plan("start.opened", f"{name} is open.", state)


def _alarm(context: Context, sentence: str) -> Plan | None:
    state = with_alarm(context.state, "no_primary", context.observation.at, sentence)
    return Plan("no_primary", sentence, state) if state is not context.state else None
