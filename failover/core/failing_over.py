"""Failover: a dead primary is replaced by a promotable standby, and the promotion is seen through to its end."""

from __future__ import annotations

import msgspec

from failover.core.candidate import Candidacy, candidacy, has_own_data, must_reach, wal_end
from failover.core.context import STOPPED, Context, Plan, slot_name, standby_name, with_alarm, with_node
from failover.core.diagnose import diagnose_primary
from failover.core.incident import may_close, open_incident
from failover.core.lone_rule import receipts_found
from failover.core.model import IncidentEvent, State, TermRecord, Transition, TransitionKind, Verdict
from failover.core.node_faults import convicting_faults, damaged_places, places_of_maps
from replication.actions import CheckReceipts, Fence, Op, Promote, ReadPlaces, StartStandby
from replication.model import Cause, FaultKind, NodeReport, Place, Postmaster, Role, Stage


def replace_dead_primary(context: Context) -> Plan | None:
    """While a promotable standby exists, a dead primary is replaced, never restarted in place."""
    if context.state.transition is not None or context.is_paused:
        return None
    verdict = diagnose_primary(context)
    candidate = promotable_standby(context)
    if verdict is None or candidate is None:
        return None
    unread = unread_places(context, candidate)
    if unread and not has_waited_long_enough(context, candidate):
        return _read_places(context, candidate, verdict, unread)
    return begin_failover(context, candidate, verdict)


def unread_places(context: Context, candidate: str) -> tuple[Place, ...]:
    """What is damaged on the primary and was not found clean on the candidate just now (DESIGN section 5, certificate)."""
    damaged, record = damaged_places(context.record(context.state.primary or "")), context.record(candidate)
    fresh = context.now_ms - record.places_read_ms <= context.policy.places_fresh_ms
    read = record.places_read if fresh else ()
    return damaged if any(place not in read for place in damaged) else ()


def has_waited_long_enough(context: Context, candidate: str) -> bool:
    """The primary serves nobody any more, and the candidate could not read the places: it carries no fault that is known,
    and waiting longer would only prolong the outage."""
    report = context.report(context.state.primary)
    is_dead = report is None or report.postmaster in STOPPED
    return is_dead and context.record(candidate).failures > 0


def _read_places(context: Context, candidate: str, verdict: Verdict, places: tuple[Place, ...]) -> Plan | None:
    """Damage that the candidate carries too must not become the primary's: it is read there first."""
    if not context.is_free(candidate):
        return None
    state, _, events = open_incident(context, context.state, verdict)
    sentence = f"{verdict.sentence} Reading {places[0]} on {candidate} before it is promoted."
    op = ReadPlaces(places, context.policy.places_deadline_ms)
    return Plan("failover.read_places", sentence, state, {candidate: op}, events=events)


def is_convicted(context: Context) -> bool:
    """The primary carries a fault for which another is to take its place."""
    return context.state.primary is not None and bool(convicting_faults(context, context.state.primary))


def promotable_standby(context: Context) -> str | None:
    """The standby that may be promoted now, if there is one."""
    for name in context.others(context.state.primary):
        if candidacy(context.state, name, context.report(name), context.policy) is Candidacy.PROMOTABLE:
            return name
    return None


def begin_failover(context: Context, candidate: str, verdict: Verdict, *, accepts_loss: bool = False) -> Plan:
    """Journal "promoting" as the next term, promote, and fence the former primary in parallel (DESIGN section 6)."""
    former = context.state.primary or ""
    state, incident, opened = open_incident(context, context.state, verdict)
    chosen = context.report(candidate)
    transition = Transition(
        kind=TransitionKind.FAILOVER,
        candidate_incarnation=chosen.incarnation if chosen is not None else None,
        candidate_wal_lsn=must_reach(context.record(candidate), chosen) if chosen is not None else 0,
        step="promoting",
        candidate=candidate,
        former=former,
        began_ms=context.now_ms,
        step_began_ms=context.now_ms,
        incident=incident,
        accepts_loss=accepts_loss,
    )
    state = msgspec.structs.replace(state, term=next_term(context.state), transition=transition)
    ops = _promotion_ops(context, candidate, former)
    return Plan(
        kind="failover.begin",
        sentence=f"{verdict.sentence} Promoting {candidate}.",
        state=state,
        ops=ops,
        events=(
            *opened,
            context.event(incident, "failover.promoting", f"Promoting {candidate} in term {state.term}."),
        ),
    )


def next_term(state: State) -> int:
    """A promotion is always another term, going back to a former primary too."""
    return state.term + 1


def _promotion_ops(context: Context, candidate: str, former: str) -> dict[str, Op]:
    ops: dict[str, Op] = {}
    report = context.report(candidate)
    if report is not None and report.doing is None and context.record(candidate).pending is None:
        ops[candidate] = promotion_op(context, candidate, report)
    former_report = context.report(former)
    if former_report is not None and not former_report.fenced:
        ops[former] = Fence()
    return ops


def promotion_op(context: Context, candidate: str, report: NodeReport) -> Op:
    """Promote a running standby; a stopped one is first started by itself, with no upstream."""
    if report.postmaster in STOPPED:
        record = context.record(candidate)
        failure = record.redo_failure
        stop = failure.lsn if failure is not None else None  # it would break off there again
        return StartStandby(standby_name(candidate, record.generation), upstream=None, stop_before_lsn=stop)
    return Promote(slots=tuple(slot_name(other) for other in context.others(candidate)))


def see_promotion_through(context: Context) -> Plan | None:
    """Until the candidate is open in the new term: promote again, start it again, fence the former again."""
    transition = context.state.transition
    if transition is None or transition.step != "promoting":
        return None
    report = context.report(transition.candidate)
    if report is not None and is_promoted(context, report):
        return _promoted(context, transition, report)
    if (why := _why_stuck(context, transition, report)) is not None:
        return Plan("failover.stuck", why, with_alarm(context.state, "no_primary", context.observation.at, why))
    ops: dict[str, Op] = {}
    if report is not None and context.is_free(transition.candidate) and can_take_promotion(report):
        ops[transition.candidate] = _next_for_candidate(context, transition, report)
    former = context.report(transition.former)
    if (
        transition.kind is TransitionKind.FAILOVER
        and former is not None
        and former.postmaster not in STOPPED
        and context.record(transition.former).pending is None
    ):
        ops[transition.former] = Fence()
    if ops:
        sentence = f"{transition.candidate} is not promoted yet: asking again ({', '.join(sorted(ops))})."
        return Plan("failover.retry", sentence, context.state, ops)
    return Plan("failover.wait", f"Waiting for {transition.candidate} to be promoted.", context.state)


def _next_for_candidate(context: Context, transition: Transition, report: NodeReport) -> Op:
    """Promote it; a candidate that was restarted meanwhile first shows that it holds everything that was acknowledged."""
    if must_show_receipts(transition, report) and receipts_found(context.record(transition.candidate), report) is None:
        return CheckReceipts(incarnation=report.incarnation or "")
    return promotion_op(context, transition.candidate, report)


def must_show_receipts(transition: Transition, report: NodeReport) -> bool:
    """It runs, but it is not the postmaster that was chosen. That one may have confirmed commits that nobody saw, until
    the order to promote reached it, and its disk may have lost them since."""
    return (
        report.postmaster is Postmaster.RUNNING
        and report.in_recovery is True
        and report.incarnation != transition.candidate_incarnation
        and not transition.accepts_loss
    )


def has_lost_wal(transition: Transition, report: NodeReport) -> bool:
    """It started again while it was being promoted, and its WAL ends below where it ended when it was chosen."""
    return (
        report.postmaster is Postmaster.RUNNING
        and report.in_recovery is True
        and report.incarnation != transition.candidate_incarnation
        and not transition.accepts_loss
        and wal_end(report) < transition.candidate_wal_lsn
    )


def _why_stuck(context: Context, transition: Transition, report: NodeReport | None) -> str | None:
    """What only a person can end: the sentence of the alarm."""
    name = transition.candidate
    if report is None:
        if context.now_ms - transition.step_began_ms < context.policy.promote_deadline_ms:
            return None
        return f"{name} is being promoted and its agent does not answer; next: bring the host of {name} back"
    if report.fence_held or context.record(name).fence_held:
        return f"{name} is being promoted and is fenced by an operator; next: locum unfence {name}"
    if not has_own_data(context.state, report):
        return f"{name} is being promoted and its data directory is {report.data.value}; next: bring its disk back"
    if has_lost_wal(transition, report):
        return (
            f"{name} died while it was being promoted and has lost the end of its WAL; "
            f"next: locum failover --to {name} --accept-data-loss"
        )
    if must_show_receipts(transition, report):
        return _why_receipts_hold_it_up(context, transition, report)
    return None


def _why_receipts_hold_it_up(context: Context, transition: Transition, report: NodeReport) -> str | None:
    name, accept = transition.candidate, f"locum failover --to {transition.candidate} --accept-data-loss"
    found = receipts_found(context.record(name), report)
    if found is not None and found.present < found.acknowledged:
        listed = ", ".join(found.missing)
        return (
            f"{name} died while it was being promoted, and {found.acknowledged - found.present} of {found.acknowledged} "
            f"acknowledged writes are missing on it now ({listed}); next: {accept}"
        )
    if found is None and context.now_ms - transition.step_began_ms >= context.policy.promote_deadline_ms:
        return f"{name} is being promoted, and the receipts of every server must be compared with it; next: start the servers, or {accept}"
    return None


def can_take_promotion(report: NodeReport) -> bool:
    """Running, so that it can be promoted (again: what an agent's death cut short is finished), or stopped, so that it
    can be started first."""
    return report.postmaster is Postmaster.RUNNING or report.postmaster in STOPPED


def is_promoted(context: Context, report: NodeReport) -> bool:
    """Running, out of recovery, open, and in the term that was journalled."""
    return (
        report.postmaster is Postmaster.RUNNING
        and report.in_recovery is False
        and report.configured_role is Role.PRIMARY
        and report.stage is Stage.OPEN
        and report.term == context.state.term
        and report.timeline is not None
    )


def _promoted(context: Context, transition: Transition, report: NodeReport) -> Plan:
    state = _with_new_primary(context, transition, report)
    events: tuple[IncidentEvent, ...] = ()
    sentence = f"{transition.candidate} is primary in term {state.term}, timeline {report.timeline}."
    if transition.incident is not None:
        events = (context.event(transition.incident, "failover.promoted", sentence),)
    return Plan("failover.promoted", sentence, state, events=events)


def _with_new_primary(context: Context, transition: Transition, report: NodeReport) -> State:
    state = with_node(
        context.state,
        transition.candidate,
        eligible=False,
        eligible_reason="it is the primary",
        eligible_incarnation=None,
        grown_walsender=None,
        needs_rebuild=False,
        quarantined=False,
        redo_failure=None,
        faults=tuple(
            fault for fault in context.record(transition.candidate).faults if fault.kind is not FaultKind.REDO_FAILED
        ),
        waits_for_peer_since_ms=None,
        may_open_alone=True,
        maps_due=places_of_maps(context.record(transition.former)),
    )
    changes: dict[str, object] = {
        "eligible": False,
        "eligible_reason": "not grown since the promotion",
        "eligible_incarnation": None,
        "grown_walsender": None,
        "confirmed_flush_lsn": None,
        "confirmed_timeline": None,
        "lost_since_ms": None,
    }
    if must_former_be_rebuilt(transition):
        changes |= {"needs_rebuild": True, "rebuild_reason": "another was promoted past it"}
        changes |= {"quarantined": is_quarantine_due(context.state.incident_verdict)}
    for other in context.others(transition.candidate):
        state = with_node(state, other, **changes)
    record = TermRecord(state.term, transition.candidate, report.timeline, report.promoted_lsn)
    return msgspec.structs.replace(
        with_alarm(state, "no_primary", context.observation.at, None),
        primary=transition.candidate,
        transition=None,
        history=(*state.history, record),
    )


def is_journalled_promotion(before: State, after: State) -> bool:
    """The promotion that is stored as under way has come true, in the same term: a fact, whoever stores it first."""
    transition = before.transition
    return (
        transition is not None
        and transition.step == "promoting"
        and after.transition is None
        and after.term == before.term
        and after.primary == transition.candidate
    )


def must_former_be_rebuilt(transition: Transition) -> bool:
    """After a failover always, fenced or not: what its disk holds was not seen to reach the new primary."""
    return transition.kind is TransitionKind.FAILOVER


def is_quarantine_due(verdict: Verdict | None) -> bool:
    """A node that failed by its storage or its content is not trusted again before a rebuild and a certificate."""
    return verdict is not None and verdict.cause in (Cause.STORAGE, Cause.CORRUPTION)


def close_incident(context: Context) -> Plan | None:
    """An incident ends when the primary is open and whole, a standby is promotable again, and no acknowledged write is
    missing. While the damaged places of a primary are read on its standby, all but "whole" holds."""
    incident = context.state.incident
    if incident is None or context.state.transition is not None or is_convicted(context):
        return None
    candidate = promotable_standby(context)
    if not context.is_open_primary() or candidate is None or not may_close(context):
        return None
    sentence = f"{context.state.primary} serves, {candidate} stands by and may be promoted."
    state = msgspec.structs.replace(context.state, incident=None, incident_verdict=None)
    return Plan("incident.closed", sentence, state, events=(context.event(incident, "closed", sentence),))
