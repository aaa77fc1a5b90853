"""Letting others in to a primary that runs: closed → replicating → open (DESIGN section 4, starting a primary)."""

from __future__ import annotations

import msgspec

from failover.core.candidate import is_eligible
from failover.core.context import Context, Plan, walsender_of, with_alarm, with_node
from failover.core.model import State, TermRecord
from failover.core.starting import alarm
from replication.actions import ApplySchema, SetNames, SetStage
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
    if context.record(name).may_open_alone and not anybody_is_eligible(context):
        op_open = SetStage(stage=Stage.OPEN, incarnation=report.incarnation)
        return Plan("start.open_alone", f"Opening {name} alone: nothing is eligible.", context.state, {name: op_open})
    return alarm(
        context,
        f"{name} died alone and stays closed, since nothing proves that its disk lost nothing; "
        f"next: locum failover --to {name} --accept-data-loss",
    )


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
    if report.stage is Stage.CLOSED:
        op = SetStage(stage=Stage.REPLICATING, incarnation=incarnation)
        return Plan("start.replicating", f"Letting the standby of {name} stream.", context.state, {name: op})
    sender = walsender_of(report, report.names[0])
    if sender is not None and sender.state == "streaming":
        op = SetStage(stage=Stage.OPEN, incarnation=incarnation)
        return Plan("start.open", f"{report.names[0]} streams: opening {name}.", context.state, {name: op})
    return _wait_for_standby(context, name, report)


def _wait_for_standby(context: Context, name: str, report: NodeReport) -> Plan | None:
    """It must be seen to follow before anybody is let in; after a while a person is told."""
    since_ms = context.record(name).waits_for_peer_since_ms
    if since_ms is None:
        state = with_node(context.state, name, waits_for_peer_since_ms=context.now_ms)
        return Plan("start.wait_for_standby", f"{name} waits for {report.names[0]} to stream.", state)
    if context.now_ms - since_ms < context.policy.cold_start_ms:
        return None
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
