"""One tick of the core: `decide(state, observation, policy) -> (state, decision)`.

The rules are tried in order and the first that wants something makes the decision; none reads a clock, a disk or a
network. The new state must be stored before any action is sent, and what an action did is learnt only from the next
observation (`settle`), so a controller that dies at any point resumes.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from failover.core.broken_redo import replace_primary_that_misread
from failover.core.commands import hold_fences, obey
from failover.core.context import Context, Plan
from failover.core.failing_over import close_incident, replace_dead_primary, see_promotion_through
from failover.core.incident import note_cause_of_death, note_damage, note_receipts, note_standby_damage
from failover.core.invariants import InvariantViolation, check_plan, check_step
from failover.core.model import Decision, Observation, Pending, Policy, Reply, State
from failover.core.opening import open_primary
from failover.core.repairing import drop_maps, repair_alone
from failover.core.settle import settle
from failover.core.standing_by import shrink, tend_standby
from failover.core.starting import first_start, start_dead_primary
from failover.core.switching import see_switchover_through
from failover.core.transitions import KINDS
from replication.actions import Action, Fence

RULES: tuple[Callable[[Context], Plan | None], ...] = (
    obey,
    hold_fences,
    first_start,
    see_switchover_through,
    see_promotion_through,
    replace_primary_that_misread,
    replace_dead_primary,
    note_damage,
    note_cause_of_death,
    start_dead_primary,
    open_primary,
    shrink,
    drop_maps,
    repair_alone,
    note_receipts,
    tend_standby,
    note_standby_damage,
    close_incident,
)


def decide(state: State, observation: Observation, policy: Policy) -> tuple[State, Decision]:
    """The next state and what to do. Raises InvariantViolation rather than break a safety rule."""
    settled = settle(state, observation, policy)
    context = Context(settled, observation, policy)
    plan = next((plan for rule in RULES if (plan := rule(context)) is not None), None)
    if plan is None:
        plan = Plan("steady", "Nothing to do.", settled)
    if plan.kind not in KINDS:
        raise InvariantViolation(f"{plan.kind} is not in the transition table")
    return _finish(state, settled, plan, observation, policy)


def _finish(
    before: State, settled: State, plan: Plan, observation: Observation, policy: Policy
) -> tuple[State, Decision]:
    if policy.observe_only:
        return _only_told(before, settled, plan)
    ops = plan.ops
    after = plan.state
    by_operator = any(reply.status == 202 for reply in plan.replies)
    check_plan(settled, after, observation, ops, policy, by_operator=by_operator, kind=plan.kind)
    if not ops and is_unchanged(before, after):
        return before, Decision(kind=plan.kind, sentence=plan.sentence, replies=plan.replies)
    after = msgspec.structs.replace(after, revision=next_revision(before))
    actions = []
    for name in sorted(ops):
        report = observation.nodes.get(name)
        record = after.nodes[name]
        if report is None or (record.pending is not None and not isinstance(ops[name], Fence)):
            raise InvariantViolation(f"{name} cannot take an action now: it is silent, or one is pending")
        action = Action(name, after.term, after.revision, report.boot_id, report.clock_ms, ops[name])
        pending = Pending(after.revision, ops[name], report.boot_id, report.clock_ms, after.now_ms)
        nodes = {**after.nodes, name: msgspec.structs.replace(record, pending=pending)}
        after = msgspec.structs.replace(after, nodes=nodes)
        actions.append(action)
    check_step(before, after)
    decision = Decision(
        kind=plan.kind,
        sentence=plan.sentence,
        actions=tuple(actions),
        replies=plan.replies,
        incident_events=plan.events,
    )
    return after, decision


def _only_told(before: State, settled: State, plan: Plan) -> tuple[State, Decision]:
    """With `observe_only`: what would be done is told; only what was observed is stored."""
    sentence = "this controller only observes (observe_only): nothing was done"
    replies = tuple(Reply(reply.id, 409, sentence) if reply.status == 202 else reply for reply in plan.replies)
    decision = Decision(kind=plan.kind, sentence=plan.sentence, replies=replies)
    if is_unchanged(before, settled):
        return before, decision
    return msgspec.structs.replace(settled, revision=next_revision(before)), decision


def next_revision(before: State) -> int:
    """Every state that is stored has a revision of its own, and its actions carry it."""
    return before.revision + 1


def is_unchanged(before: State, after: State) -> bool:
    """Nothing but the clock differs."""
    return before is after or msgspec.structs.replace(after, now_ms=before.now_ms) == before
