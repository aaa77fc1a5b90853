"""What operators ask for: accepted or refused in the tick in which it arrives, with a sentence."""

from __future__ import annotations

from dataclasses import replace as with_fields

import msgspec

from failover.core.candidate import Candidacy, candidacy, is_eligible
from failover.core.context import STOPPED, Context, Plan, disqualified, with_node
from failover.core.failing_over import begin_failover
from failover.core.model import Command, CommandKind, Reply, Verdict
from failover.core.switching import begin_switchover
from replication.actions import Fence, Op, Unfence
from replication.model import Cause, Evidence, FaultKind

NEVER_PROMOTED = (Candidacy.NO_DATA, Candidacy.FENCED, Candidacy.SILENT, Candidacy.IS_PRIMARY)
_PAUSE_MS_DEFAULT = 30 * 60 * 1000


def obey(context: Context) -> Plan | None:
    """The first command of this tick; the controller hands them over one a tick."""
    if not context.observation.commands:
        return None
    command = context.observation.commands[0]
    if command.expected_term != context.state.term:
        sentence = (
            f"the term is {context.state.term}, not {command.expected_term}; look at `locum status` and ask again"
        )
        return _refuse(context, command, 409, sentence)
    if command.node is not None and command.node not in context.state.nodes:
        return _refuse(
            context, command, 422, f"there is no node {command.node}; nodes: {', '.join(context.state.nodes)}"
        )
    handlers = {
        CommandKind.SWITCHOVER: _switchover,
        CommandKind.FAILOVER: _failover,
        CommandKind.FENCE: _fence,
        CommandKind.UNFENCE: _unfence,
        CommandKind.REBUILD: _rebuild,
        CommandKind.PAUSE: _pause,
        CommandKind.RESUME: _resume,
        CommandKind.CLOSE_INCIDENT: _close_incident,
    }
    return handlers[command.kind](context, command)


def _refuse(context: Context, command: Command, status: int, sentence: str) -> Plan:
    return Plan("command.refused", sentence, context.state, replies=(Reply(command.id, status, sentence),))


def _accept(command: Command, plan: Plan) -> Plan:
    return with_fields(plan, replies=(Reply(command.id, 202, plan.sentence),))


def _candidate(context: Context, command: Command) -> str | None:
    return command.node or next(iter(context.others(context.state.primary)), None)


def _switchover(context: Context, command: Command) -> Plan:
    candidate = _candidate(context, command)
    if context.state.transition is not None:
        return _refuse(context, command, 409, f"a {context.state.transition.kind.value} is under way")
    if candidate is None or candidate == context.state.primary:
        return _refuse(context, command, 409, f"{candidate} is the primary already")
    why = candidacy(context.state, candidate, context.report(candidate), context.policy)
    if why is not Candidacy.PROMOTABLE:
        return _refuse(context, command, 409, f"{candidate} is not promotable: {why.value}")
    plan = begin_switchover(context, candidate) if context.is_open_primary() else None
    if plan is None:
        return _refuse(context, command, 409, f"{context.state.primary} is not open or is busy; try again in a second")
    return _accept(command, plan)


def _failover(context: Context, command: Command) -> Plan:
    candidate = _candidate(context, command)
    transition = context.state.transition
    if (
        transition is not None
        and transition.step == "promoting"
        and command.accept_data_loss
        and candidate == transition.candidate
    ):
        state = msgspec.structs.replace(
            context.state, transition=msgspec.structs.replace(transition, accepts_loss=True)
        )
        return _accept(command, Plan("command.go_on", f"Going on to promote {candidate}, whatever it lost.", state))
    if transition is not None:
        return _refuse(context, command, 409, f"a {transition.kind.value} is under way")
    if candidate is None or context.report(candidate) is None:
        return _refuse(context, command, 409, f"the agent of {candidate} does not answer")
    if candidate == context.state.primary:
        return _open_lone_primary(context, command, candidate)
    report = context.report(candidate)
    why = candidacy(context.state, candidate, report, context.policy, accept_damage=command.accept_damage)
    if why is Candidacy.DAMAGED:
        return _refuse(context, command, 409, f"{candidate}: {why.value}; --accept-damage promotes it nevertheless")
    if why in NEVER_PROMOTED:
        return _refuse(context, command, 409, f"{candidate} cannot be promoted: {why.value}")
    if why is not Candidacy.PROMOTABLE and not command.accept_data_loss:
        return _refuse(context, command, 409, f"{candidate}: {why.value}; --accept-data-loss promotes it nevertheless")
    if (refusal := _former_may_acknowledge(context, command, why)) is not None:
        return _refuse(context, command, 409, refusal)
    if not context.is_free(candidate):
        return _refuse(context, command, 409, f"{candidate} is busy; try again in a second")
    return _accept(
        command, begin_failover(context, candidate, _asked(context, command), accepts_loss=command.accept_data_loss)
    )


def _former_may_acknowledge(context: Context, command: Command, why: Candidacy) -> str | None:
    """Without the write barrier an unreachable former primary goes on acknowledging: a fence must be certain."""
    if why is Candidacy.PROMOTABLE or command.primary_is_dead:
        return None
    former = context.report(context.state.primary)
    if former is None:
        return f"{context.state.primary} cannot be fenced: its agent is silent; --primary-is-dead says that it is off"
    if former.postmaster in STOPPED:
        return None
    return f"{context.state.primary} still runs: fence it first (locum fence {context.state.primary})"


def _open_lone_primary(context: Context, command: Command, name: str) -> Plan:
    """`failover --to` the primary itself: open a lone primary that stays closed."""
    if context.is_open_primary():
        return _refuse(context, command, 409, f"{name} is the primary and open")
    if not command.accept_data_loss:
        return _refuse(context, command, 409, f"nothing proves that {name} lost nothing; --accept-data-loss opens it")
    state = with_node(context.state, name, may_open_alone=True, opened_by_operator=True)
    for other in context.others(name):
        state = disqualified(state, other, "an operator opened the primary alone")
    return _accept(command, Plan("command.open_alone", f"{name} will be opened alone, by an operator's word.", state))


def _asked(context: Context, command: Command) -> Verdict:
    return Verdict(
        cause=Cause.PROCESS,
        kind=FaultKind.PROCESS_DEAD,
        node=context.state.primary or "",
        confidence=1.0,
        sentence=f"An operator asked for a failover: {command.reason or 'no reason given'}.",
        evidence=(Evidence("command", "operator", context.observation.at, command.reason),),
    )


def _fence(context: Context, command: Command) -> Plan:
    if command.node is None or context.report(command.node) is None:
        sentence = f"the agent of {command.node} does not answer: it cannot be fenced from here"
        return _refuse(context, command, 409, sentence)
    state = with_node(context.state, command.node, fence_held=True)
    sentence = f"Fencing {command.node} until unfence."
    return _accept(command, Plan("command.fence", sentence, state, {command.node: Fence(hold=True)}))


def _unfence(context: Context, command: Command) -> Plan:
    if command.node is None:
        return _refuse(context, command, 422, "say which node")
    state = with_node(context.state, command.node, fence_held=False)
    ops: dict[str, Op] = {command.node: Unfence()} if context.is_idle(command.node) else {}
    return _accept(command, Plan("command.unfence", f"{command.node} may be started again.", state, ops))


def hold_fences(context: Context) -> Plan | None:
    """An operator's fence, or its end, whose message was lost is sent again."""
    for name in sorted(context.state.nodes):
        report, record = context.report(name), context.record(name)
        if report is None or report.fence_held == record.fence_held or not context.is_free(name):
            continue
        if record.fence_held:
            return Plan(
                "fence.again", f"Fencing {name}, as an operator asked.", context.state, {name: Fence(hold=True)}
            )
        return Plan("fence.lift_again", f"Lifting the fence of {name}.", context.state, {name: Unfence()})
    return None


def _rebuild(context: Context, command: Command) -> Plan:
    if command.node is None or command.node == context.state.primary:
        return _refuse(context, command, 409, f"{command.node} is the primary; switch over first")
    if context.state.transition is not None:
        return _refuse(context, command, 409, f"a {context.state.transition.kind.value} is under way")
    eligible = is_eligible(context.record(command.node))
    state = with_node(
        context.state,
        command.node,
        needs_rebuild=True,
        rebuild_reason="an operator asked for it",
        rebuild_accepts_damage=command.accept_damage,
        retry_after_ms=0,
    )
    tail = ", which takes away the standby meanwhile" if eligible else ""
    return _accept(command, Plan("command.rebuild", f"{command.node} will be rebuilt{tail}.", state))


def _pause(context: Context, command: Command) -> Plan:
    for_ms = command.for_ms if command.for_ms is not None else _PAUSE_MS_DEFAULT
    if for_ms <= 0:
        return _refuse(context, command, 422, "a pause needs a duration above zero")
    state = msgspec.structs.replace(context.state, paused_until_ms=context.now_ms + for_ms, pause_reason=command.reason)
    return _accept(command, Plan("command.pause", f"Paused for {for_ms // 1000} s.", state))


def _resume(context: Context, command: Command) -> Plan:
    state = msgspec.structs.replace(context.state, paused_until_ms=None, pause_reason="")
    return _accept(command, Plan("command.resume", "Automatic actions go on.", state))


def _close_incident(context: Context, command: Command) -> Plan:
    """By hand, for an incident whose cause stays, such as a standby that will not come back."""
    incident = context.state.incident
    if incident is None or incident != command.incident:
        return _refuse(context, command, 409, f"incident {command.incident} is not open")
    if context.state.transition is not None:
        return _refuse(context, command, 409, f"a {context.state.transition.kind.value} is under way")
    sentence = f"Closed by an operator: {command.reason}"
    state = msgspec.structs.replace(context.state, incident=None, incident_verdict=None)
    event = context.event(incident, "closed", sentence)
    return _accept(command, Plan("command.close_incident", sentence, state, events=(event,)))
