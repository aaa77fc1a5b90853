"""Letting others in to a primary that runs: closed → replicating → open (DESIGN section 4, starting a primary)."""

from __future__ import annotations

import msgspec

from failover.core.candidate import is_eligible
from failover.core.context import Context, Plan, disqualified, walsender_of, with_alarm, with_node
from failover.core.lone_rule import receipts_found, why_receipts_forbid
from failover.core.model import State, TermRecord
from failover.core.starting import alarm
from replication.actions import ApplySchema, CheckReceipts, Fence, SetNames, SetStage
from replication.model import NodeReport, Postmaster, Stage


def open_primary(context: Context) -> Plan | None:
    """A running primary that is not open yet: schema, then replicating with its standby, then open."""
    name = context.state.primary
    report = context.report(name)
    if name is None or report is None or report.postmaster is not Postmaster.RUNNING or report.in_recovery is not False:
        return None
    if report.stage is Stage.OPEN:
        return _note_open(context, name, report)
    if not context.is_free(name) or report.incarnation is None or context.state.transition is not None:
        return None
    if not context.state.schema_applied:
        op = ApplySchema(report.incarnation)
        return Plan("start.schema", f"Applying schema and roles on {name}.", context.state, {name: op})
    if report.names and (plan := _without_standby(context, name, report)) is not None:
        return plan
    if report.names:
        return _open_with_standby(context, name, report)
    if anybody_is_eligible(context):
        peer = next(other for other in context.others(name) if is_eligible(context.record(other)))
        said = f"{name} is closed and {peer}, which is eligible, is not in its list; next: locum failover --to {peer}"
        return alarm(context, said)
    if context.record(name).may_open_alone:
        op_open = SetStage(stage=Stage.OPEN, incarnation=report.incarnation)
        return Plan("start.open_alone", f"Opening {name} alone: nothing is eligible.", context.state, {name: op_open})
    return _prove_alone(context, name, report)


def _prove_alone(context: Context, name: str, report: NodeReport) -> Plan | None:
    """The rest of the lone rule, on a primary that is still closed: everything that was acknowledged is in it."""
    record = context.record(name)
    why = record.end_short
    found = receipts_found(record, report)
    if why is None and found is not None:
        why = why_receipts_forbid(record.end_lsn, found)
    if why is not None:
        said = f"{name} stays closed: {why}; next: locum failover --to {name} --accept-data-loss"
        return alarm(context, said)
    if found is None:
        return _check_receipts(context, name, report)
    state = with_node(context.state, name, may_open_alone=True, waits_for_peer_since_ms=None)
    for other in context.others(name):
        if is_eligible(state.nodes[other]):
            state = disqualified(state, other, f"lost, and {name} was proved complete without it")
    sentence = f"All {found.acknowledged} acknowledged writes are on {name}: it may open alone."
    return Plan("start.proved_alone", sentence, state)


def _check_receipts(context: Context, name: str, report: NodeReport) -> Plan:
    state = context.state
    if context.record(name).failures or context.record(name).receipts_asked:
        said = (
            f"{name} stays closed until the receipts of every server can be compared with it; next: start the servers, or "
            f"locum failover --to {name} --accept-data-loss"
        )
        state = with_alarm(state, "no_primary", context.observation.at, said)
    state = with_node(state, name, receipts_asked=True)
    sentence = f"Comparing what servers have acknowledged with {name}, which is closed."
    return Plan("start.check_receipts", sentence, state, {name: CheckReceipts(incarnation=report.incarnation or "")})


def anybody_is_eligible(context: Context) -> bool:
    """Some standby must confirm what this primary acknowledges."""
    return any(is_eligible(context.record(other)) for other in context.others(context.state.primary))


def _without_standby(context: Context, name: str, report: NodeReport) -> Plan | None:
    """An operator's word, journalled with "not eligible", comes before the empty list."""
    if anybody_is_eligible(context) or not context.record(name).may_open_alone:
        return None
    op = SetNames(names=(), incarnation=report.incarnation or "")
    return Plan("start.relax", f"Nothing is eligible: {name} waits for nobody.", context.state, {name: op})


def _open_with_standby(context: Context, name: str, report: NodeReport) -> Plan | None:
    incarnation = report.incarnation or ""
    if not context.record(name).started_compared:
        return _closed_without_comparison(context, name, report)
    if report.stage is Stage.CLOSED:
        op = SetStage(stage=Stage.REPLICATING, incarnation=incarnation)
        return Plan("start.replicating", f"Letting the standby of {name} stream.", context.state, {name: op})
    sender = walsender_of(report, report.names[0])
    if sender is not None and sender.state == "streaming":
        op = SetStage(stage=Stage.OPEN, incarnation=incarnation)
        return Plan("start.open", f"{report.names[0]} streams: opening {name}.", context.state, {name: op})
    return _wait_for_standby(context, name, report)


def _closed_without_comparison(context: Context, name: str, report: NodeReport) -> Plan | None:
    """Its peer could not be asked before the start, or was found to hold more afterwards. It must not stream before their
    WAL was compared: when the peer answers that is made up for, and until then only the receipts can open it, alone."""
    peers = [other for other in context.others(name) if is_eligible(context.record(other))]
    if any(context.report(peer) is not None for peer in peers):
        sentence = f"Stopping {name}, so that its WAL can be compared with that of {peers[0]}, which answers."
        return Plan("start.compare_after_all", sentence, context.state, {name: Fence()})
    return _prove_alone(context, name, report)


def _wait_for_standby(context: Context, name: str, report: NodeReport) -> Plan | None:
    """It must be seen to follow before anybody is let in; after a while a person is told."""
    since_ms = context.record(name).waits_for_peer_since_ms
    if since_ms is None:
        state = with_node(context.state, name, waits_for_peer_since_ms=context.now_ms)
        return Plan("start.wait_for_standby", f"{name} waits for {report.names[0]} to stream.", state)
    if context.now_ms - since_ms < context.policy.cold_start_ms:
        return None
    if context.report(context.others(name)[0]) is None and context.record(name).end_lsn is not None:
        return _prove_alone(context, name, report)
    return alarm(
        context,
        f"{name} is started and not open: {report.names[0]} does not stream; next: bring that standby back, or "
        f"locum failover --to {name} --accept-data-loss",
    )


def _note_open(context: Context, name: str, report: NodeReport) -> Plan | None:
    """The first open of term 1 is journalled as its history; an old alarm goes."""
    state: State = with_alarm(context.state, "no_primary", context.observation.at, None)
    record = context.record(name)
    if record.opened_by_operator or record.waits_for_peer_since_ms is not None:
        state = with_node(state, name, opened_by_operator=False, waits_for_peer_since_ms=None)
    if not state.history:
        first = TermRecord(state.term, name, report.timeline, None)
        state = msgspec.structs.replace(state, history=(first,))
    if state is context.state:
        return None
    return Plan("start.opened", f"{name} is open.", state)
