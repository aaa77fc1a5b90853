"""How WAL flows in the model: a walreceiver connects, then it receives; a path that is frozen tells neither side.

A connection that is silent for `TIMEOUT_MS` (wal_sender_timeout, wal_receiver_timeout) is given up by either side, until
then it is shown as streaming. PostgreSQL counts what a walsender of a listed name reports, whatever lies there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.leases import holds_lease
from tests.sim.node import ModelNode, Running

if TYPE_CHECKING:
    from tests.sim.world import World

PEER = {"a": "b", "b": "a"}
STREAMED_A_STEP = 12
STREAMED_SLOWLY = 1
TIMEOUT_MS = 2_000
CATCH_UP_MS = 150
"""How long a standby is shown as streaming before it confirms the first that it is sent."""


def stream(world: World) -> None:
    """One step of every walsender and walreceiver."""
    for node in world.nodes.values():
        _receive(world, node, world.nodes[PEER[node.name]])
    for node in world.nodes.values():
        _end_receiver(world, node)
        _end_senders(world, node)


def stream_last(world: World, primary: ModelNode) -> None:
    """What is at the end of the primary's WAL reaches connected standbys (walsender.c, also at a clean stop)."""
    for node in world.nodes.values():
        _receive(world, node, primary)


def _receive(world: World, node: ModelNode, primary: ModelNode) -> bool:
    """Connect, or take what comes; False when nothing came through."""
    mine, theirs = node.process, primary.process
    if mine is None or theirs is None or not mine.in_recovery or mine.upstream != primary.name:
        return False
    if theirs.in_recovery or not world.has_link(node.name, primary.name):
        return False
    if (
        world.is_frozen(node)
        or world.is_frozen(primary)
        or (theirs.stage is not None and theirs.stage.value == "closed")
    ):
        return False
    mine.heard_ms = world.now_ms
    if mine.receiver_since != theirs.incarnation or mine.name not in theirs.senders:
        mine.receiver_since = theirs.incarnation
        primary.connections += 1
        mine.connected_ms = world.now_ms
        _confirm(world, mine, theirs, (primary.connections, len(node.wal)))
        return True
    if world.now_ms - mine.connected_ms < CATCH_UP_MS:
        _confirm(world, mine, theirs, (theirs.senders[mine.name][0], len(node.wal)))
        return True
    before = len(node.wal)
    streamed = STREAMED_SLOWLY if world.now_ms < world.faults.slow_until_ms else STREAMED_A_STEP
    node.wal.extend(primary.wal[before : before + streamed])
    node.timeline = max(node.timeline, primary.timeline)
    if len(node.wal) != before or (
        holds_lease(primary) and world.answers(primary)
    ):  # a heartbeat, with a record or without
        world.unmoved_since_ms[node.name] = world.now_ms
    _confirm(world, mine, theirs, (theirs.senders[mine.name][0], len(node.wal)))
    return True


def _confirm(world: World, mine: Running, theirs: Running, sender: tuple[int, int]) -> None:
    """A standby's reply: counted by name and LSN alone."""
    theirs.senders[mine.name] = sender
    theirs.heard_from_ms[mine.name] = world.now_ms
    if mine.name in theirs.names:
        theirs.high_water = max(theirs.high_water, sender[1])
        theirs.confirmed_ms = world.now_ms


def _end_receiver(world: World, node: ModelNode) -> None:
    """The primary is gone, or has been silent for too long."""
    process, primary = node.process, world.nodes[PEER[node.name]]
    if process is None or process.receiver_since is None or world.is_frozen(node):
        return
    theirs = primary.process
    has_other_end = (
        theirs is not None and theirs.incarnation == process.receiver_since and process.name in theirs.senders
    )
    is_told = not has_other_end and world.has_link(node.name, primary.name)
    if is_told or world.now_ms - process.heard_ms >= TIMEOUT_MS:
        process.receiver_since = None


def _end_senders(world: World, node: ModelNode) -> None:
    """The standby is gone or asks another, or has been silent for too long."""
    process, standby = node.process, world.nodes[PEER[node.name]]
    if process is None or world.is_frozen(node):
        return
    mine = standby.process
    for name in list(process.senders):
        has_other_end = mine is not None and mine.name == name and mine.receiver_since == process.incarnation
        is_told = not has_other_end and world.has_link(node.name, standby.name)
        if is_told or world.now_ms - process.heard_from_ms[name] >= TIMEOUT_MS:
            del process.senders[name], process.heard_from_ms[name]
