"""Visibility maps that lie on both nodes, because WAL has copied the lie before anybody saw it."""

from __future__ import annotations

import pytest

from failover.core import failing_over
from tests.sim.operations import LOOKS_AFTER_MS
from tests.sim.rules import Rule, without
from tests.sim.world import World

SEEDS = 60
STEPS = 1_600
TERMS_MAX = 1
NOT_HANDED_ON = Rule(((failing_over, "places_of_maps", lambda _record: ()),))


def lied_to(seed: int) -> World:
    """A cluster that is well but for that, and what became of it in 80 s."""
    world = World(seed)
    world.faults.heal(world)
    world.settle_down(2_000)
    assert world.is_settled()
    before = world.store.term
    for node in world.nodes.values():
        node.lie_found_ms = world.now_ms + world.random.choice(LOOKS_AFTER_MS)
    for _ in range(STEPS):
        world.step()
    lying = [node.name for node in world.nodes.values() if node.lie_found_ms is not None]
    assert not lying, f"seed {seed}: the maps of {lying} lie"
    assert world.is_settled(), f"seed {seed}: {world.kinds[-12:]}"
    changes = world.store.term - before
    assert changes <= TERMS_MAX, f"seed {seed}: {changes} promotions"
    return world


def test_the_lie_is_thrown_away_and_nobody_is_replaced_twice() -> None:
    for seed in range(SEEDS):
        lied_to(seed)


def test_without_the_maps_that_are_due_the_nodes_replace_each_other() -> None:
    with without(NOT_HANDED_ON, assertions=True), pytest.raises(AssertionError, match=r"promotions|lie"):
        for seed in range(SEEDS):
            lied_to(seed)
