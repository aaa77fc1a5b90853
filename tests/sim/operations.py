"""What each operation does to a model node when it ends, as the real agent would do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from replication.actions import (
    Action,
    ApplySchema,
    Certify,
    Checkpoint,
    CompareWal,
    EnsureSlot,
    Fence,
    Grow,
    InitDb,
    Promote,
    Rebuild,
    SetNames,
    SetStage,
    StartPrimary,
    StartStandby,
    Stop,
    Unfence,
)
from replication.model import Certificate, Comparison, Growth, PlannedStop, Role, Stage, WalComparison
from tests.sim.node import ModelNode

if TYPE_CHECKING:
    from tests.sim.world import World

Outcome = tuple[bool, str | None]
OK: Outcome = (True, None)
WRONG: Outcome = (False, "wrong_state")


def perform(world: World, node: ModelNode, action: Action) -> None:
    """End an action: change the node, and remember the outcome."""
    ok, reason = OPERATIONS[type(action.op)](world, node, action)
    node.finish(action, ok=ok, reason=reason, sentence=reason or "")


def _initdb(world: World, node: ModelNode, action: Action) -> Outcome:
    if node.has_data:
        return WRONG
    node.has_data, node.wal, node.timeline = True, [0], 1
    return OK


def _start_primary(world: World, node: ModelNode, action: Action) -> Outcome:
    if node.process is not None or not node.has_data:
        return WRONG
    node.start(Role.PRIMARY, "", None, action.op.names)  # type: ignore[union-attr]
    return OK


def _apply_schema(world: World, node: ModelNode, action: Action) -> Outcome:
    node.schema_applied = True
    return OK


def _set_stage(world: World, node: ModelNode, action: Action) -> Outcome:
    op, process = action.op, node.process
    assert isinstance(op, SetStage)
    if process is None or process.incarnation != op.incarnation:
        return WRONG
    if op.stage is Stage.OPEN and process.names:
        # The synchronous probe commit: a record of its own that the named standby must confirm.
        node.wal.append(world.new_record())
        world.stream_last(node)
        if not any(process.confirmed.get(name, 0) >= len(node.wal) for name in process.names):
            return False, "deadline"
    process.stage = op.stage
    return OK


def _set_names(world: World, node: ModelNode, action: Action) -> Outcome:
    op, process = action.op, node.process
    assert isinstance(op, SetNames)
    if process is None or process.incarnation != op.incarnation:
        return WRONG
    process.wanted_names = op.names
    if node.checkpointer_hangs_until_ms > world.now_ms:
        return False, "deadline"
    process.names = op.names
    return OK


def _grow(world: World, node: ModelNode, action: Action) -> Outcome:
    op, process = action.op, node.process
    assert isinstance(op, Grow)
    if process is None or process.incarnation != op.incarnation:
        return WRONG
    process.wanted_names = (op.name,)
    hangs = node.checkpointer_hangs_until_ms > world.now_ms
    if not hangs:
        process.names = (op.name,)
    world.stream_last(node)
    sender = process.senders.get(op.name)
    standby = world.nodes[op.standby].process
    proved = (
        not hangs
        and sender is not None
        and sender[1] >= len(node.wal)
        and standby is not None
        and standby.incarnation == op.standby_incarnation
        and world.has_link(node.name, op.standby)
    )
    number = sender[0] if sender is not None else None
    node.growth = Growth(
        action.revision, op.name, proved, "", op.incarnation, op.standby_incarnation, number, str(number), len(node.wal)
    )
    return OK


def _ensure_slot(world: World, node: ModelNode, action: Action) -> Outcome:
    assert isinstance(action.op, EnsureSlot)
    node.slots.add(action.op.slot)
    return OK


def _start_standby(world: World, node: ModelNode, action: Action) -> Outcome:
    op = action.op
    assert isinstance(op, StartStandby)
    if node.process is not None or not node.has_data:
        return WRONG
    if op.upstream is not None:
        upstream = world.nodes[op.upstream]
        if upstream.process is None or upstream.process.in_recovery or not world.has_link(node.name, op.upstream):
            return False, "cannot_ask"
        if len(node.wal) > len(upstream.wal):
            return False, "ahead"
        if upstream.wal[: len(node.wal)] != node.wal:
            return False, "history_differs"
    node.start(Role.STANDBY, op.name, op.upstream, ())
    return OK


def _compare(world: World, node: ModelNode, action: Action) -> Outcome:
    assert isinstance(action.op, CompareWal)
    peer = world.nodes[action.op.peer]
    if not peer.is_agent_up or not world.has_link(node.name, peer.name):
        outcome = Comparison.PEER_UNREACHABLE
    elif node.wal[: len(peer.wal)] == peer.wal:
        outcome = Comparison.EQUAL
    else:
        outcome = Comparison.WAL_LOST
    node.comparison = WalComparison(
        action.revision, outcome, outcome.value, len(node.wal), len(peer.wal), peer.last_incarnation
    )
    return OK


def _promote(world: World, node: ModelNode, action: Action) -> Outcome:
    process = node.process
    if process is None or not process.in_recovery:
        return WRONG
    process.receiver_since, process.upstream = None, None
    process.in_recovery, process.role, process.stage, process.names = False, Role.PRIMARY, Stage.OPEN, ()
    node.promoted_lsn = len(node.wal)
    node.timeline += 1
    node.wal.append(world.new_record())
    node.slots = set(action.op.slots)  # type: ignore[union-attr]
    return OK


def _checkpoint(world: World, node: ModelNode, action: Action) -> Outcome:
    return OK if node.process is not None else WRONG


def _stop(world: World, node: ModelNode, action: Action) -> Outcome:
    process = node.process
    assert isinstance(action.op, Stop)
    if process is None or process.incarnation != action.op.incarnation:
        return WRONG
    world.stream_last(node)
    world.release(process)
    if process.waiting:
        node.die()
        node.is_fenced = True
        return False, "deadline"
    node.wal.append(world.new_record())
    world.stream_last(node)
    checkpoint = len(node.wal) - 1
    node.die()
    node.planned_stop = PlannedStop(node.timeline, checkpoint, True)
    return OK


def _fence(world: World, node: ModelNode, action: Action) -> Outcome:
    node.die()
    node.is_fenced = True
    return OK


def _unfence(world: World, node: ModelNode, action: Action) -> Outcome:
    node.is_fenced = False
    return OK


def _rebuild(world: World, node: ModelNode, action: Action) -> Outcome:
    assert isinstance(action.op, Rebuild)
    source = world.nodes[action.op.source]
    if node.process is not None:
        return WRONG
    node.has_data, node.wal = False, []
    if source.process is None or source.process.in_recovery or not world.has_link(node.name, source.name):
        return False, "failed"
    node.has_data, node.wal, node.timeline = True, list(source.wal), source.timeline
    return OK


def _certify(world: World, node: ModelNode, action: Action) -> Outcome:
    node.certificate = Certificate(node.name, node.timeline, len(node.wal), 1, ("model",), False, "")
    return OK


OPERATIONS: dict[type[Any], Callable[[World, ModelNode, Action], Outcome]] = {
    InitDb: _initdb,
    StartPrimary: _start_primary,
    ApplySchema: _apply_schema,
    SetStage: _set_stage,
    SetNames: _set_names,
    Grow: _grow,
    EnsureSlot: _ensure_slot,
    StartStandby: _start_standby,
    CompareWal: _compare,
    Promote: _promote,
    Checkpoint: _checkpoint,
    Stop: _stop,
    Fence: _fence,
    Unfence: _unfence,
    Rebuild: _rebuild,
    Certify: _certify,
}
