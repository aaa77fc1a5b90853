"""What each operation does to a model node when it ends, as the real agent would do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from replication.actions import (
    Action,
    ApplySchema,
    Certify,
    Checkpoint,
    CheckReceipts,
    CompareWal,
    DropMaps,
    EnsureSlot,
    Fence,
    Grow,
    InitDb,
    Promote,
    ReadPlaces,
    Rebuild,
    Reindex,
    SetNames,
    SetStage,
    StartPrimary,
    StartStandby,
    Stop,
    Unfence,
)
from replication.model import (
    Certificate,
    Comparison,
    Growth,
    PlacesRead,
    PlannedStop,
    ReceiptsFound,
    Role,
    Stage,
    WalComparison,
)
from tests.sim.node import ModelNode
from tests.sim.streaming import stream_last

if TYPE_CHECKING:
    from tests.sim.world import World

Outcome = tuple[bool, str | None]
OK: Outcome = (True, None)
WRONG: Outcome = (False, "wrong_state")
LOOKS_AFTER_MS = (1_000, 4_000, 20_000)
"""How long a node that was copied has a lie before its agent finds it."""


def perform(world: World, node: ModelNode, action: Action) -> None:
    """End an action: change the node, and remember the outcome."""
    if world.is_frozen(node) and not isinstance(action.op, Fence):
        node.finish(action, ok=False, reason="deadline")
        return
    ok, reason = OPERATIONS[type(action.op)](world, node, action)
    node.finish(action, ok=ok, reason=reason, sentence=reason or "")


def interrupt(world: World, node: ModelNode, action: Action) -> None:
    """The agent died, or a fence came, in the middle: the work may have come just short of its end."""
    if world.random.random() < 0.5 or world.is_frozen(node):
        return
    if isinstance(action.op, StartPrimary | StartStandby):
        OPERATIONS[type(action.op)](world, node, action)
    elif isinstance(action.op, Promote):
        _leave_recovery(world, node)


def _initdb(world: World, node: ModelNode, action: Action) -> Outcome:
    if node.has_data:
        return WRONG
    node.has_data, node.wal, node.timeline = True, [0], 1
    return OK


def _start_primary(world: World, node: ModelNode, action: Action) -> Outcome:
    if node.process is not None or not node.has_data:
        return WRONG
    world.check_start(node)
    if node.planned_stop is None or not node.planned_stop.intact:
        node.wal.append(world.new_record())  # recovery ends with a record of its own, which fills a gap
    node.start(Role.PRIMARY, "", None, action.op.names)  # type: ignore[union-attr]
    return OK


def _apply_schema(world: World, node: ModelNode, action: Action) -> Outcome:
    node.schema_applied = True
    return OK


def _set_stage(world: World, node: ModelNode, action: Action) -> Outcome:
    op, process = action.op, node.process
    assert isinstance(op, SetStage)
    if process is None or process.in_recovery:
        return WRONG
    if op.stage is Stage.OPEN and process.names and "probe" not in node.broken:
        # The synchronous probe commit: a record of its own that the named standby must confirm.
        node.wal.append(world.new_record())
        stream_last(world, node)
        if process.high_water < len(node.wal):
            return False, "deadline"
    process.stage = op.stage
    if op.stage is Stage.OPEN:
        world.note_visible(node)
    return OK


def _set_names(world: World, node: ModelNode, action: Action) -> Outcome:
    op, process = action.op, node.process
    assert isinstance(op, SetNames)
    if process is None or process.in_recovery:
        return WRONG
    if node.checkpointer_hangs_until_ms > world.now_ms:
        return False, "deadline"
    process.names = process.wanted_names
    return OK


def _grow(world: World, node: ModelNode, action: Action) -> Outcome:
    op, process = action.op, node.process
    assert isinstance(op, Grow)
    if process is None or process.in_recovery:
        return WRONG
    hangs = node.checkpointer_hangs_until_ms > world.now_ms
    if not hangs:
        process.names = process.wanted_names
    stream_last(world, node)
    sender = process.senders.get(op.name)
    standby = world.nodes[op.standby]
    proved = (
        process.names == (op.name,)
        and sender is not None
        and sender[1] >= len(node.wal)
        and standby.process is not None
        and standby.process.incarnation == op.standby_incarnation
        and process.incarnation == op.incarnation
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
    if op.upstream is not None and "history" not in node.broken:
        upstream = world.nodes[op.upstream]
        if upstream.process is None or upstream.process.in_recovery or not world.has_link(node.name, op.upstream):
            return False, "cannot_ask"
        if len(node.wal) > len(upstream.wal):
            return False, "ahead"
        if upstream.wal[: len(node.wal)] != node.wal and "history_content" not in node.broken:
            return False, "history_differs"
    node.start(Role.STANDBY, op.name, op.upstream, ())
    return OK


def _compare(world: World, node: ModelNode, action: Action) -> Outcome:
    assert isinstance(action.op, CompareWal)
    if action.op.peer is None:
        node.comparison = WalComparison(action.revision, Comparison.ALONE, "", len(node.wal), node.timeline)
        return OK
    peer = world.nodes[action.op.peer]
    if not world.answers(peer) or not world.has_link(node.name, peer.name):
        outcome = Comparison.PEER_UNREACHABLE
    elif node.wal[: len(peer.wal)] == peer.wal or "compare" in node.broken:
        outcome = Comparison.EQUAL
    else:
        outcome = Comparison.WAL_LOST
    node.comparison = WalComparison(
        action.revision, outcome, outcome.value, len(node.wal), node.timeline, len(peer.wal), peer.last_incarnation
    )
    return OK


def _leave_recovery(world: World, node: ModelNode) -> None:
    """What PostgreSQL does at a promotion; from here it can acknowledge."""
    process = node.process
    if process is None or not process.in_recovery:
        return
    world.check_promotion(node)
    world.superseded_by, world.superseded_ms = node.name, world.now_ms
    process.receiver_since, process.upstream = None, None
    process.in_recovery, process.names, process.wanted_names = False, (), ()
    node.promoted_lsn = len(node.wal)
    node.timeline += 1
    node.wal.append(world.new_record())


def _promote(world: World, node: ModelNode, action: Action) -> Outcome:
    process = node.process
    if process is None or process.role is Role.PRIMARY:
        return WRONG
    _leave_recovery(world, node)
    process.role, process.stage = Role.PRIMARY, Stage.OPEN
    world.note_visible(node)
    node.slots = set(action.op.slots)  # type: ignore[union-attr]
    return OK


def _checkpoint(world: World, node: ModelNode, action: Action) -> Outcome:
    return OK if node.process is not None else WRONG


def _stop(world: World, node: ModelNode, action: Action) -> Outcome:
    process = node.process
    assert isinstance(action.op, Stop)
    if process is None:
        return WRONG
    stream_last(world, node)
    world.release(node, process)
    if process.waiting:
        node.die()
        node.is_fenced = True
        return False, "deadline"
    node.wal.append(world.new_record())
    stream_last(world, node)
    checkpoint = len(node.wal) - 1
    node.die()
    node.planned_stop = PlannedStop(node.timeline, checkpoint, True)
    return OK


def _fence(world: World, node: ModelNode, action: Action) -> Outcome:
    assert isinstance(action.op, Fence)
    node.die()
    node.is_fenced, node.is_fence_held = True, node.is_fence_held or action.op.hold
    return OK


def _unfence(world: World, node: ModelNode, action: Action) -> Outcome:
    node.is_fence_held = False
    return OK


def _rebuild(world: World, node: ModelNode, action: Action) -> Outcome:
    assert isinstance(action.op, Rebuild)
    source = world.nodes[action.op.source]
    if node.process is not None:
        return WRONG
    node.has_data, node.wal, node.certificate = False, [], None
    if source.process is None or source.process.in_recovery or not world.has_link(node.name, source.name):
        return False, "failed"
    if source.has_fault and not world.person_asked:
        return False, "failed"  # pg_basebackup verifies checksums
    node.has_data, node.wal, node.timeline, node.has_fault = True, list(source.wal), source.timeline, False
    node.is_rebuilt = True
    node.lie_found_ms = None if source.lie_found_ms is None else world.now_ms + world.random.choice(LOOKS_AFTER_MS)
    return OK


def _certify(world: World, node: ModelNode, action: Action) -> Outcome:
    if node.process is None or node.has_fault:
        return False, "failed"
    node.certificate = Certificate(node.name, node.timeline, len(node.wal), 1, ("model",), False, "")
    node.is_tainted = node.is_tainted and not node.is_rebuilt
    return OK


def _drop_maps(world: World, node: ModelNode, action: Action) -> Outcome:
    """In WAL: it reaches whoever streams from here, and whoever will."""
    if node.process is None or node.process.in_recovery:
        return WRONG
    node.lie_found_ms = None
    for other in world.nodes.values():
        if other.process is not None and other.process.upstream == node.name:
            other.lie_found_ms = None
    return OK


def _check_receipts(world: World, node: ModelNode, action: Action) -> Outcome:
    """Every server's receipts, compared by content: the newest of what was acknowledged to a client."""
    if node.process is None:
        return WRONG
    present = len(world.receipts & set(node.wal))
    node.receipts_found = ReceiptsFound(action.revision, node.process.incarnation, len(world.receipts), present, 0)
    return OK


def _read_places(world: World, node: ModelNode, action: Action) -> Outcome:
    assert isinstance(action.op, ReadPlaces)
    if node.process is None:
        return WRONG
    node.places_read = PlacesRead(action.revision, not node.has_fault, "", 1, True)
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
    Reindex: _checkpoint,
    DropMaps: _drop_maps,
    Stop: _stop,
    Fence: _fence,
    Unfence: _unfence,
    Rebuild: _rebuild,
    Certify: _certify,
    ReadPlaces: _read_places,
    CheckReceipts: _check_receipts,
}
