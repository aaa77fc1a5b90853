"""What the status tells a person to do while there is no primary: never to accept a loss that waiting avoids."""

from __future__ import annotations

from failover.core.model import CommandKind, Policy
from failover.core.view import next_step, node_view, phase
from replication.topology import Phase
from tests.sim.world import World
from tests.unit.core.test_decide import healthy

POLICY = Policy()


def said_until_it_serves(world: World) -> list[str]:
    said = []
    for _ in range(200):
        world.step()
        if phase(world.store, world.observe(), POLICY) is Phase.NO_PRIMARY:
            said.append(next_step(world.store, world.observe(), POLICY) or "")
        elif said:
            return said
    raise AssertionError("there was always, or never, a primary")


def test_while_both_nodes_start_again_nobody_is_told_to_accept_a_loss() -> None:
    world = healthy()
    for node in world.nodes.values():
        node.die()
    said = said_until_it_serves(world)
    assert set(said) == {"wait: a is being started; an alarm says so when it cannot go on without you"}


def test_a_primary_that_is_fenced_by_hand_waits_for_the_word() -> None:
    world = healthy()
    world.nodes["b"].die()
    world.nodes["b"].agent_frozen_until_ms = 1 << 60
    for _ in range(100):
        world.step()
    world.ask(CommandKind.FENCE, "a", reason="new fans")
    for _ in range(40):
        world.step()
    assert "locum unfence a" in (next_step(world.store, world.observe(), POLICY) or "")


def test_a_primary_is_not_called_a_standby_that_may_not_be_promoted() -> None:
    world = healthy()
    assert node_view(world.store, world.observe(), "a", POLICY).eligible_reason == "it is the primary"
