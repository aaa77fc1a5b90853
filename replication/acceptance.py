"""Whether an agent accepts an action: pure, so that every refusal can be tested (the rules are in actions.Action)."""

from __future__ import annotations

import msgspec

from replication import actions
from replication.actions import Action, Op, Refusal
from replication.model import DataDirectory, Role, Stage
from replication.state_dir import AgentState

_STARTS = (actions.StartPrimary, actions.StartStandby, actions.InitDb)
_WHILE_STOPPED = (actions.InitDb, actions.StartPrimary, actions.StartStandby, actions.CompareWal, actions.Rebuild)
_ON_RUNNING_PRIMARY = (
    actions.ApplySchema, actions.SetStage, actions.SetNames, actions.Grow, actions.EnsureSlot, actions.Checkpoint,
    actions.Reindex, actions.DropMaps,
)  # fmt: skip
_ON_RUNNING_STANDBY = (actions.Promote, actions.Certify, actions.ReadPlaces)


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What an action is judged against, besides the persisted state."""

    node: str
    boot_id: str
    clock_ms: int
    action_ttl_ms: int
    running: bool
    incarnation: str | None
    data: DataDirectory
    doing: str | None
    refused_revision: int = 0
    """The highest revision that this run of the agent has refused for what it found here (`is_final`)."""
    peers: tuple[str, ...] = ()


class Refused(msgspec.Struct, frozen=True):
    """The answer with HTTP 409."""

    refused: Refusal
    sentence: str


def refusal(action: Action, state: AgentState, now: Situation) -> Refused | None:
    """Why it is refused, or None when it is to be accepted."""
    return _not_for_us(action, state, now) or _not_now(action.op, state, now)


def is_final(refused: Refused) -> bool:
    """It was refused for what was found here, which may change. The controller has been told that it will never run, so a
    second copy of the message must not be accepted later either."""
    return refused.refused in (Refusal.BUSY, Refusal.FENCE_HELD, Refusal.WRONG_STATE)


def _not_for_us(action: Action, state: AgentState, now: Situation) -> Refused | None:
    if action.node != now.node:
        return Refused(Refusal.OTHER_NODE, f"this is the agent of node {now.node}, not of {action.node}")
    if action.boot_id != now.boot_id:
        return Refused(Refusal.OTHER_BOOT, "the action answers a report of an earlier run of this agent")
    if action.term < state.term:
        return Refused(Refusal.LOWER_TERM, f"term {action.term} is below {state.term}, which this node has seen")
    if action.revision <= state.revision:
        sentence = f"revision {action.revision} is not above {state.revision}, which this node has accepted"
        return Refused(Refusal.STALE_REVISION, sentence)
    if action.revision <= now.refused_revision:
        sentence = f"revision {now.refused_revision} was refused here: whoever sent it no longer waits for it"
        return Refused(Refusal.STALE_REVISION, sentence)
    age_ms = now.clock_ms - action.observed_clock_ms
    if not 0 <= age_ms <= now.action_ttl_ms:
        sentence = f"it answers a report of {age_ms} ms ago; at most {now.action_ttl_ms} ms are accepted"
        return Refused(Refusal.TOO_LATE, sentence)
    return None


def _not_now(op: Op, state: AgentState, now: Situation) -> Refused | None:
    if isinstance(op, actions.Fence):
        return None
    if now.doing is not None:
        return Refused(Refusal.BUSY, f"{now.doing} is under way; only a fence is accepted meanwhile")
    if state.fence_held and isinstance(op, _STARTS):
        return Refused(Refusal.FENCE_HELD, "an operator has fenced this node; `locum unfence` lifts it")
    sentence = _wrong_state(op, state, now)
    return Refused(Refusal.WRONG_STATE, sentence) if sentence is not None else None


def _wrong_state(op: Op, state: AgentState, now: Situation) -> str | None:
    wanted = getattr(op, "incarnation", None)
    if isinstance(wanted, str) and wanted != now.incarnation:
        return f"it was decided for the postmaster {wanted}, and the last one here is {now.incarnation}"
    if isinstance(op, _WHILE_STOPPED):
        return "PostgreSQL runs" if now.running else _wrong_data(op, now)
    needs_running = isinstance(op, (*_ON_RUNNING_PRIMARY, *_ON_RUNNING_STANDBY, actions.Stop, actions.CheckReceipts))
    if needs_running and not now.running:
        return "PostgreSQL does not run"
    if isinstance(op, _ON_RUNNING_PRIMARY) and state.configured_role is not Role.PRIMARY:
        return "this node does not run as primary"
    if isinstance(op, _ON_RUNNING_STANDBY) and state.configured_role is not Role.STANDBY:
        return "this node does not run as standby"
    return _wrong_stage(op, state)


def _wrong_data(op: Op, now: Situation) -> str | None:
    if now.data is DataDirectory.FOREIGN:
        return "the data directory is not one that this PostgreSQL can use; it is left alone"
    if isinstance(op, actions.InitDb) and now.data is not DataDirectory.EMPTY:
        return f"the data directory is {now.data}, not empty"
    if isinstance(op, actions.StartPrimary | actions.StartStandby | actions.CompareWal):
        return None if now.data is DataDirectory.PRESENT else f"the data directory is {now.data}"
    return None


def _wrong_stage(op: Op, state: AgentState) -> str | None:
    if isinstance(op, actions.ApplySchema) and state.stage is not Stage.CLOSED:
        return f"the schema is applied while the primary is closed, and it is {state.stage}"
    if isinstance(op, actions.SetStage):
        order = list(Stage)
        if op.stage is Stage.CLOSED or state.stage is None or order.index(op.stage) < order.index(state.stage):
            return f"a start goes from closed to open, never back: it is {state.stage}, {op.stage} was asked"
    return None
