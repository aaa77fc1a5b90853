"""Starting a primary: the first start, and the closed start of one that died while nothing may replace it.

DESIGN section 4, starting a primary; opening.py lets others in, lone_rule.py says when nobody need be compared with.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from failover.core.candidate import carries_integrity_fault, has_own_data, is_eligible
from failover.core.context import Context, Plan, disqualified, slot_name, standby_name, with_alarm, with_node
from failover.core.failing_over import begin_failover
from failover.core.incident import with_outage
from failover.core.lone_rule import own_end, was_stopped_whole, why_end_is_short
from failover.core.model import NodeRecord, Verdict
from replication.actions import CompareWal, InitDb, StartPrimary
from replication.model import (
    Cause,
    Comparison,
    DataDirectory,
    Evidence,
    FaultKind,
    NodeReport,
    WalComparison,
)


def first_start(context: Context) -> Plan | None:
    """Name a primary, make its data directory. Only while the store holds no system identifier, and only where nothing
    lies: a store that was lost must not cost the data too."""
    state = context.state
    if state.system_identifier is not None:
        return None
    if (found := _found_data(context)) is not None:
        return alarm(context, found)
    if state.primary is None:
        if any(context.report(name) is None for name in state.nodes):
            return None
        name = min(state.nodes)
        state = msgspec.structs.replace(state, primary=name, term=1)
        return Plan("start.named", f"First start: {name} is to be the primary, term 1.", state)
    report = context.report(state.primary)
    if report is None or not context.is_free(state.primary) or report.data is not DataDirectory.EMPTY:
        return None
    state = with_node(state, state.primary, may_open_alone=True)
    sentence = f"First start: making the cluster on {report.node}."
    return Plan("start.initdb", sentence, state, {report.node: InitDb()})


def _found_data(context: Context) -> str | None:
    """A data directory that is there although the store knows of no cluster."""
    for name in sorted(context.state.nodes):
        report = context.report(name)
        if report is None or report.data is DataDirectory.EMPTY or context.record(name).may_open_alone:
            continue
        return (
            f"the store is empty, but the data directory of {name} is {report.data.value}; "
            f"next: bring the store back, or move that directory away"
        )
    return None


def start_dead_primary(context: Context) -> Plan | None:
    """In place, closed, when nothing promotable may replace it; after the comparison of WAL when a peer is eligible."""
    return with_outage(context, _bring_back(context))


def _bring_back(context: Context) -> Plan | None:
    name = context.state.primary
    if name is None or context.state.transition is not None or context.state.system_identifier is None:
        return None
    report = context.report(name)
    if report is None or not context.is_stopped(name) or not context.is_free(name) or context.is_paused:
        return None
    if report.fence_held or context.record(name).fence_held:
        return alarm(context, f"{name} is fenced by an operator; next: locum unfence {name}")
    if not has_own_data(context.state, report):
        what = "of another cluster" if report.data is DataDirectory.PRESENT else report.data.value
        next_step = "next: locum failover --to NODE --accept-data-loss"
        return alarm(context, f"the data directory of {name}, the primary, is {what}; {next_step}")
    if not context.state.schema_applied:
        return _start(context, name, (), may_open_alone=True)
    peer = next((other for other in context.others(name) if is_eligible(context.record(other))), None)
    if peer is None:
        return _start_alone(context, name, report)
    if context.report(peer) is None:
        return _wait_for_peer(context, name, report, peer)
    return _compare_then_start(context, name, report, peer)


def may_start_alone(context: Context, name: str, report: NodeReport) -> bool:
    """Its agent stopped it whole, or an operator accepted the loss."""
    return context.record(name).opened_by_operator or was_stopped_whole(context, name, report)


def _start_alone(context: Context, name: str, report: NodeReport) -> Plan | None:
    """Nobody is to be compared with. What the lone rule needs to know of its WAL is read before the start."""
    if may_start_alone(context, name, report):
        return _start(context, name, (), may_open_alone=True)
    own = own_end(context.record(name), report)
    if own is None and not has_read_own_end(context.record(name), report):
        return _read_own_end(context, name)
    return _start(context, name, (), may_open_alone=False, own=own)


def has_read_own_end(record: NodeRecord, report: NodeReport) -> bool:
    """It was asked to, and it has ended, whatever it found."""
    return report.comparison is not None and report.comparison.revision == record.compared_revision


def _read_own_end(context: Context, name: str) -> Plan:
    sentence = f"Reading where the WAL of {name} ends, before a start hides it."
    return Plan("start.read_end", sentence, context.state, {name: CompareWal(peer=None)})


def _wait_for_peer(context: Context, name: str, report: NodeReport, peer: str) -> Plan | None:
    """Its eligible peer holds the other half of the proof: only after `cold_start_ms` may the lone rule do without."""
    since_ms = context.record(name).waits_for_peer_since_ms
    if since_ms is None:
        state = with_node(context.state, name, waits_for_peer_since_ms=context.now_ms)
        return Plan("start.wait_for_peer", f"{name} is stopped; {peer}, which is eligible, is awaited.", state)
    waited_ms = context.now_ms - since_ms
    if waited_ms >= context.policy.cold_start_ms and (plan := _without_peer(context, name, report, peer)) is not None:
        return plan
    if waited_ms < context.policy.peer_alarm_ms:
        return None
    return alarm(
        context,
        f"{name} is stopped, and {peer}, which must be compared with it, does not answer; next: bring the host of "
        f"{peer} back, or locum failover --to {name} --accept-data-loss",
    )


def _without_peer(context: Context, name: str, report: NodeReport, peer: str) -> Plan | None:
    """Stopped whole: its peer is not needed. Else it is started closed, its peer's new name in its list, and stays closed
    until the receipts have been compared, or the peer is back."""
    if was_stopped_whole(context, name, report):
        state = disqualified(context.state, peer, f"not to be asked, and {name} was proved complete without it")
        state = with_node(state, name, waits_for_peer_since_ms=None)
        return Plan("start.without_peer", f"{peer} does not answer: not eligible; {name} was stopped whole.", state)
    own = own_end(context.record(name), report)
    if own is None and not has_read_own_end(context.record(name), report):
        return _read_own_end(context, name)
    if own is None or why_end_is_short(context.state, name, own.end_lsn, own.timeline, report) is not None:
        return None
    return _start(context, name, (peer,), may_open_alone=False, own=own)


def _compare_then_start(context: Context, name: str, report: NodeReport, peer: str) -> Plan | None:
    record, other = context.record(name), context.report(peer)
    if other is None:
        return None
    comparison = report.comparison
    fresh = (
        comparison is not None
        and comparison.revision == record.compared_revision
        and comparison.outcome is not Comparison.ALONE
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
        return _start(context, name, (peer,), may_open_alone=False, own=comparison, compared=True)
    if comparison.outcome is Comparison.WAL_LOST:
        return _promote_peer(context, name, other, comparison.sentence)
    return _compare_again(context, name, peer, comparison.sentence)


def _compare_again(context: Context, name: str, peer: str, sentence: str) -> Plan:
    """Neither proof nor refutation: tried again, and a person is told when that does not end by itself."""
    since_ms = context.record(name).waits_for_peer_since_ms
    state = with_node(
        context.state,
        name,
        compared_revision=None,
        retry_after_ms=context.now_ms + context.policy.retry_ms,
        waits_for_peer_since_ms=context.now_ms if since_ms is None else since_ms,
    )
    if since_ms is not None and context.now_ms - since_ms >= context.policy.peer_alarm_ms:
        said = (
            f"{name} is stopped, and its WAL cannot be compared with that of {peer}: {sentence}; it is tried again; next: "
            f"mend {peer}, or locum failover --to {name} --accept-data-loss"
        )
        state = with_alarm(state, "no_primary", context.observation.at, said)
    return Plan("start.compare_again", sentence, state)


def _promote_peer(context: Context, name: str, peer: NodeReport, sentence: str) -> Plan | None:
    """The eligible peer holds what the primary's disk has lost."""
    if carries_integrity_fault(context.record(peer.node), peer):
        return alarm(
            context,
            f"{name} has lost the end of its WAL and {peer.node} carries an integrity fault; "
            f"next: locum failover --to {peer.node} --accept-damage",
        )
    if not context.is_idle(peer.node):
        return None
    plan = begin_failover(context, peer.node, _wal_lost(context, name, peer.node, sentence))
    return replace(plan, kind="start.wal_lost")


def _wal_lost(context: Context, name: str, peer: str, sentence: str) -> Verdict:
    return Verdict(
        cause=Cause.CORRUPTION,
        kind=FaultKind.WAL_LOST,
        node=name,
        confidence=1.0,
        sentence=f"Node {name} has lost the end of its WAL: {sentence}",
        evidence=(Evidence("WAL comparison", f"agents {name} and {peer}", context.observation.at, sentence),),
    )


def _start(
    context: Context,
    name: str,
    peers: tuple[str, ...],
    *,
    may_open_alone: bool,
    own: WalComparison | None = None,
    compared: bool = False,
) -> Plan:
    state = with_node(
        context.state,
        name,
        may_open_alone=may_open_alone,
        compared_revision=None,
        receipts_revision=None,
        receipts_asked=False,
        waits_for_peer_since_ms=None,
        end_lsn=own.end_lsn if own is not None else None,
        end_short=_why_short(context, name, own),
        started_compared=compared,
    )
    state = msgspec.structs.replace(state, started_ms=context.now_ms)
    for other in context.others(name):
        # Also one that runs and is not eligible: its receiver would come back by itself, and nothing proves that it
        # follows from what this start found on its disk. Under a new name it is started anew, with that proof.
        state = with_node(state, other, generation=new_generation(state.nodes[other]), lost_since_ms=None)
    names = tuple(standby_name(peer, state.nodes[peer].generation) for peer in peers)
    slots = tuple(slot_name(other) for other in context.others(name))
    sentence = f"Starting {name} closed, {'waiting for ' + names[0] if names else 'alone'}."
    return Plan("start.closed", sentence, state, {name: StartPrimary(names=names, slots=slots)})


def _why_short(context: Context, name: str, own: WalComparison | None) -> str | None:
    """Judged now: once it runs, its agent sees what recovery itself has written, and its end means nothing any more."""
    report = context.report(name)
    if own is None or report is None:
        return "nobody read where its WAL ended before it was started"
    return why_end_is_short(context.state, name, own.end_lsn, own.timeline, report)


def new_generation(record: NodeRecord) -> int:
    """No start of a primary or of a standby goes with a name that was used before."""
    return record.generation + 1


def alarm(context: Context, sentence: str) -> Plan | None:
    """Only a person can go on: say so once, with the next step."""
    state = with_alarm(context.state, "no_primary", context.observation.at, sentence)
    return Plan("no_primary", sentence, state) if state is not context.state else None
