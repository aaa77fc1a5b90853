"""Node leases in the model: renewals on their way, heartbeats that come back or not, and the agent's fence.

When to fence is the agent's own rule (`replication.lease.must_fence`). Agents of the model whose rule "lease" is broken
count a renewal from its arrival.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from failover.core.lease import renewable
from failover.core.model import Observation
from replication.actions import LeaseRenewal
from replication.lease import WAKING_MS, must_fence
from replication.model import Role, Stage
from tests.sim.node import ModelNode

if TYPE_CHECKING:
    from tests.sim.world import World

_LATE_MS = 50
"""One step: that of waking. The model excuses every sleep, however short, and as often as one comes."""


def send_renewal(world: World, observation: Observation) -> None:
    """After the state was stored: the primary may go on for a while."""
    report = renewable(world.store, observation)
    if report is None:
        return
    renewal = LeaseRenewal(world.store.term, report.boot_id, report.clock_ms)
    world.renewals.append((world.now_ms + world.faults.renewal_delay_ms(world), report.node, renewal))


def deliver_renewals(world: World) -> None:
    """Those that arrive in this step. One that is late may arrive although its path was cut behind it."""
    due = [item for item in world.renewals if item[0] <= world.now_ms]
    world.renewals = [item for item in world.renewals if item[0] > world.now_ms]
    for _, name, renewal in due:
        node = world.nodes[name]
        if not node.is_agent_up:
            continue
        if not world.answers(node):
            world.renewals.append((node.agent_frozen_until_ms, name, renewal))
        elif renewal.boot_id == str(node.boot) and renewal.term >= node.term:
            answered_ms = node.clock_ms if "lease" in node.broken else renewal.answered_ms
            node.lease_until_clock_ms = max(node.lease_until_clock_ms, answered_ms + world.policy.lease_ttl_ms)


def keep_leases(world: World) -> None:
    """Every agent's look at its own lease, after everything else that happens in a step."""
    for node in world.nodes.values():
        _beat(world, node)
        if not world.answers(node):
            node.agent_stalled_ms = world.now_ms
            continue
        ttl_ms = world.policy.lease_ttl_ms
        if not holds_lease(node):
            node.lease_until_clock_ms = max(node.lease_until_clock_ms, node.clock_ms + ttl_ms)
            continue
        if node.agent_stalled_ms >= world.now_ms - _LATE_MS:  # it slept: it listens before it judges
            node.lease_until_clock_ms = max(node.lease_until_clock_ms, node.clock_ms + WAKING_MS)
        process = node.process
        returned_ms = node.beat_returned_ms
        why = must_fence(
            left_ms=node.lease_until_clock_ms - node.clock_ms,
            names=process.wanted_names if process is not None else (),
            heartbeat_age_ms=world.now_ms - returned_ms if returned_ms is not None else None,
            ttl_ms=ttl_ms,
        )
        if why is not None:
            node.die()
            node.is_fenced = True


def holds_lease(node: ModelNode) -> bool:
    """It is an open primary, as its agent knows it."""
    process = node.process
    return process is not None and process.role is Role.PRIMARY and process.stage is Stage.OPEN


def _beat(world: World, node: ModelNode) -> None:
    """A heartbeat comes back when a listed standby has confirmed something since it began, or nobody is listed."""
    process = node.process
    if process is None or not holds_lease(node) or process.in_recovery:
        node.beat_began_ms = None
        return
    if world.is_frozen(node):
        return
    if node.beat_began_ms is not None and has_confirmed_since(node, node.beat_began_ms):
        node.beat_returned_ms, node.beat_began_ms = node.beat_began_ms, None
    if node.beat_began_ms is None and world.answers(node):
        node.beat_began_ms = world.now_ms


def has_confirmed_since(node: ModelNode, began_ms: int) -> bool:
    """A synchronous commit that began then has come back by now."""
    process = node.process
    return process is not None and (not process.names or process.confirmed_ms > began_ms)
