"""Switchover, planned: checkpoint, drain, stop, wait for the shutdown record, promote (DESIGN section 6)."""

from __future__ import annotations

import msgspec

from failover.core.candidate import Candidacy, candidacy, must_reach
from failover.core.context import STOPPED, Context, Plan, with_node
from failover.core.diagnose import diagnose_primary
from failover.core.failing_over import next_term, promotion_op
from failover.core.model import State, Transition, TransitionKind
from replication.actions import Checkpoint, Stop
from replication.model import NodeReport, Postmaster

_SERVER_HEARD_MS = 3_000


def begin_switchover(context: Context, candidate: str) -> Plan | None:
    """The first step: a checkpoint on the primary, so that its stop is short."""
    former = context.state.primary or ""
    report = context.report(former)
    if report is None or not context.is_free(former):
        return None
    transition = Transition(
        kind=TransitionKind.SWITCHOVER,
        step="checkpoint",
        candidate=candidate,
        former=former,
        began_ms=context.now_ms,
        step_began_ms=context.now_ms,
    )
    state = msgspec.structs.replace(context.state, transition=transition)
    op = Checkpoint(incarnation=report.incarnation or "")
    return Plan("switchover.begin", f"Switchover from {former} to {candidate}: checkpoint first.", state, {former: op})


def see_switchover_through(context: Context) -> Plan | None:
    """The next step of a switchover under way, until it promotes."""
    transition = context.state.transition
    if transition is None or transition.kind is not TransitionKind.SWITCHOVER or transition.step == "promoting":
        return None
    report = context.report(transition.former)
    if report is not None and report.postmaster in STOPPED and transition.step != "catching_up":
        return _stopped(context, transition, report)
    if transition.step != "catching_up" and (verdict := diagnose_primary(context)) is not None:
        state = msgspec.structs.replace(context.state, transition=None)
        return Plan("switchover.to_failover", f"{verdict.sentence} The switchover is over.", state)
    steps = {"checkpoint": _drain, "draining": _stop, "stopping": _stop_again, "catching_up": _promote}
    return steps[transition.step](context, transition, report)


def _drain(context: Context, transition: Transition, report: NodeReport | None) -> Plan | None:
    if context.record(transition.former).pending is not None:
        return _wait(context, transition, report)
    if context.record(transition.former).failures:
        state = msgspec.structs.replace(context.state, transition=None)
        return Plan("switchover.abandoned", f"The checkpoint failed: {transition.former} goes on.", state)
    state = _at_step(context, transition, "draining")
    return Plan("switchover.drain", "Servers hold new writes and finish those in flight.", state)


def _stop(context: Context, transition: Transition, report: NodeReport | None) -> Plan | None:
    waited_ms = context.now_ms - transition.step_began_ms
    drained = is_drained(context)
    if not drained and waited_ms < context.policy.drain_deadline_ms:
        return _wait(context, transition, report)
    if report is None or not context.is_free(transition.former):
        return _give_up_when_late(context, transition)
    op = Stop(deadline_ms=context.policy.stop_deadline_ms, incarnation=report.incarnation or "")
    how = "drained" if drained else f"not drained within {waited_ms} ms, their writes will be replayed"
    state = _at_step(context, transition, "stopping")
    return Plan("switchover.stop", f"Servers are {how}: stopping {transition.former}.", state, {transition.former: op})


def _stop_again(context: Context, transition: Transition, report: NodeReport | None) -> Plan | None:
    """The message that stops it may have been lost."""
    if report is None or not context.is_free(transition.former) or report.postmaster is not Postmaster.RUNNING:
        return _wait(context, transition, report)
    if context.now_ms - transition.step_began_ms >= context.policy.stop_deadline_ms:
        return _give_up_when_late(context, transition)
    op = Stop(deadline_ms=context.policy.stop_deadline_ms, incarnation=report.incarnation or "")
    return Plan("switchover.stop", f"Stopping {transition.former}.", context.state, {transition.former: op})


def is_drained(context: Context) -> bool:
    """Every server heard from lately holds new writes and has none in flight."""
    heard = [seen for seen in context.observation.servers if seen.age_ms <= _SERVER_HEARD_MS]
    return all(seen.report.phase == "switching_over" and seen.report.writes_in_flight == 0 for seen in heard)


def _wait(context: Context, transition: Transition, report: NodeReport | None) -> Plan | None:
    if report is None or transition.step == "checkpoint" or context.is_free(transition.former):
        return _give_up_when_late(context, transition)
    return Plan("switchover.wait", f"Switchover: {transition.step}.", context.state)


def _give_up_when_late(context: Context, transition: Transition) -> Plan | None:
    limit_ms = context.policy.stop_deadline_ms + context.policy.drain_deadline_ms
    if transition.step == "checkpoint":
        limit_ms = context.policy.checkpoint_deadline_ms
    if context.now_ms - transition.step_began_ms < limit_ms:
        return Plan("switchover.wait", f"Switchover: {transition.step}.", context.state)
    state = msgspec.structs.replace(context.state, transition=None)
    return Plan(
        "switchover.abandoned", f"Switchover abandoned at {transition.step}: {transition.former} goes on.", state
    )


def _stopped(context: Context, transition: Transition, report: NodeReport) -> Plan | None:
    """The former is down: cleanly, and the candidate must replay its last record; else it is a failover's case."""
    if context.record(transition.former).pending is not None:
        return _wait(context, transition, report)
    if report.planned_stop is not None and report.planned_stop.intact and not report.fenced:
        state = _at_step(context, transition, "catching_up")
        return Plan(
            "switchover.stopped", f"{transition.former} is stopped; {transition.candidate} replays the rest.", state
        )
    state = msgspec.structs.replace(context.state, transition=None)
    return Plan("switchover.to_failover", f"{transition.former} did not stop cleanly: going on as a failover.", state)


def _promote(context: Context, transition: Transition, report: NodeReport | None) -> Plan | None:
    candidate = context.report(transition.candidate)
    stop = report.planned_stop if report is not None else None
    if candidate is not None and stop is not None and has_replayed_shutdown(candidate, stop.checkpoint_lsn):
        why = candidacy(context.state, transition.candidate, candidate, context.policy)
        if why is Candidacy.PROMOTABLE and context.is_idle(transition.candidate):
            return _promote_now(context, transition, candidate)
    if context.now_ms - transition.step_began_ms < context.policy.drain_deadline_ms:
        return Plan("switchover.wait", f"{transition.candidate} replays the shutdown record.", context.state)
    state = msgspec.structs.replace(context.state, transition=None)
    sentence = (
        f"{transition.candidate} did not replay the shutdown record: {transition.former} is started again, closed."
    )
    state = with_node(
        state, transition.candidate, eligible_incarnation=None, eligible_reason="did not replay the shutdown record"
    )
    return Plan("switchover.abandoned", sentence, state)


def _promote_now(context: Context, transition: Transition, candidate: NodeReport) -> Plan:
    moved = msgspec.structs.replace(
        transition,
        candidate_incarnation=candidate.incarnation,
        candidate_wal_lsn=must_reach(context.record(candidate.node), candidate),
    )
    state = _at_step(context, moved, "promoting")
    state = msgspec.structs.replace(state, term=next_term(state))
    op = promotion_op(context, transition.candidate, candidate)
    sentence = f"Promoting {transition.candidate} in term {state.term}."
    return Plan("switchover.promote", sentence, state, {transition.candidate: op})


def has_replayed_shutdown(candidate: NodeReport, checkpoint_lsn: int) -> bool:
    """Replay stands beyond the start of the shutdown checkpoint record, and no receiver runs any more."""
    return candidate.replay_lsn is not None and candidate.replay_lsn > checkpoint_lsn and candidate.receiver is None


def _at_step(context: Context, transition: Transition, step: str) -> State:
    moved = msgspec.structs.replace(transition, step=step, step_began_ms=context.now_ms)
    return msgspec.structs.replace(context.state, transition=moved)
