"""What breaks in the model, when, and how it heals."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from failover.core.model import CommandKind

if TYPE_CHECKING:
    from tests.sim.node import ModelNode
    from tests.sim.world import World

KINDS = (
    "kill", "kill_agent", "kill_all", "kill_nodes", "lose_tail", "freeze", "freeze_agent", "freeze_both", "cut",
    "cut_controller", "cut_all", "cut_server", "slow_link", "hang_checkpointer", "kill_controller", "corrupt", "command",
)  # fmt: skip
OUTAGES_MS = (300, 1_000, 4_000, 8_000)
LOST_RECORDS = (1, 4, 20, 80)


class Faults:
    """Every seed has its own few kinds of fault, which come seldom or in a storm: together they reach more than one mix
    of all would (swarm testing)."""

    def __init__(self, chance: random.Random) -> None:
        self.is_breaking = False
        self.link_cut_until_ms = 0
        self.cut_until_ms = {"a": 0, "b": 0}
        """Until when the path between the controller and this node's agent is frozen."""
        self.slow_until_ms = 0
        self.controller_down_until_ms = 0
        self._kinds = chance.sample(KINDS, chance.randint(3, len(KINDS)))
        self._breaks_a_step = chance.choice((0.005, 0.01, 0.02, 0.05))
        self._deaths_a_write = chance.choice((0.0, 0.02, 0.1))
        self._agent_down_until_ms = {"a": 0, "b": 0}
        self._has_lost_tail = False

    def maybe_break(self, world: World) -> None:
        """One step of the safety phase."""
        self.is_breaking = True
        if world.random.random() < self._breaks_a_step:
            node = world.nodes[world.random.choice(("a", "b"))]
            self._break(world, node, world.random.choice(self._kinds))

    def _break(self, world: World, node: ModelNode, kind: str) -> None:
        until_ms = world.now_ms + world.random.choice(OUTAGES_MS)
        if kind in ("cut", "cut_controller", "cut_all", "cut_server"):
            self._cut(world, node, kind, until_ms)
        elif kind == "slow_link":
            self.slow_until_ms = until_ms
        elif kind == "kill_controller":
            self.controller_down_until_ms = until_ms
        elif kind == "command":
            self._command(world, node)
        elif kind in ("freeze_agent", "freeze_both", "kill_agent", "kill_all"):
            self._break_agent(world, node, kind, until_ms)
        else:
            self._break_postgres(world, node, kind, until_ms)

    def _cut(self, world: World, node: ModelNode, kind: str, until_ms: int) -> None:
        """A path that freezes: between the nodes, from the controller to one, both, or from it to a server."""
        if kind in ("cut", "cut_all"):
            self.link_cut_until_ms = until_ms
        if kind in ("cut_controller", "cut_all"):
            self.cut_until_ms[node.name] = until_ms
        if kind == "cut_server":
            world.random.choice(world.servers).cut_until_ms = until_ms

    def renewal_delay_ms(self, world: World) -> int:
        """When the extension of a lease arrives: at once, or late."""
        late = self.is_breaking and world.random.random() < 0.05
        return world.random.choice((500, 1_500, 4_000)) if late else 0

    def _break_agent(self, world: World, node: ModelNode, kind: str, until_ms: int) -> None:
        if kind == "kill_all":
            node.die()
        if kind == "freeze_both":
            node.frozen_until_ms = until_ms
        if kind in ("freeze_agent", "freeze_both"):
            node.agent_frozen_until_ms = until_ms if node.is_agent_up else 0
        else:
            world.agent_dies(node)
            self._agent_down_until_ms[node.name] = until_ms

    def _break_postgres(self, world: World, node: ModelNode, kind: str, until_ms: int) -> None:
        if kind == "kill":
            node.die()
        elif kind == "kill_nodes":
            for one in world.nodes.values():
                one.die()
        elif kind == "lose_tail" and not self._has_lost_tail:
            self._has_lost_tail = True
            node.lose_tail(world.random.choice(LOST_RECORDS))
        elif kind == "freeze":
            node.frozen_until_ms = until_ms
        elif kind == "hang_checkpointer":
            node.checkpointer_hangs_until_ms = until_ms
        elif kind == "corrupt":
            node.has_fault, node.fault_since_ms = world.random.random() < 0.3, world.now_ms

    def _command(self, world: World, node: ModelNode) -> None:
        kind = world.random.choice(tuple(CommandKind))
        if kind is CommandKind.CLOSE_INCIDENT:
            return
        fields: dict[str, object] = {"for_ms": 2_000} if kind is CommandKind.PAUSE else {}
        world.ask(kind, node.name if kind not in (CommandKind.PAUSE, CommandKind.RESUME) else None, **fields)

    def come_back(self, world: World) -> None:
        """Agents return when their outage is over."""
        for node in world.nodes.values():
            if not node.is_agent_up and world.now_ms >= self._agent_down_until_ms[node.name]:
                node.restart_agent()

    def controller_dies(self, world: World) -> bool:
        """Right after the store was written, before all actions were sent."""
        if not self.is_breaking or world.random.random() >= self._deaths_a_write:
            return False
        self.controller_down_until_ms = world.now_ms + world.random.choice(OUTAGES_MS)
        return True

    def delays(self, world: World, *, dies: bool) -> tuple[int, ...]:
        """When one action arrives: soon, late, twice or never."""
        if dies and world.random.random() < 0.7:
            return ()
        soon = world.random.randint(0, 2) * 50
        if not self.is_breaking:
            return (soon,)
        chance = world.random.random()
        if chance < 0.05:
            return ()
        if chance < 0.12:
            return (world.random.choice((500, 1_500, 2_500, 6_000)),)
        if chance < 0.17:
            return (soon, world.random.choice((500, 1_500, 4_000)))
        return (soon,)

    def heal(self, world: World) -> None:
        """The end of the safety phase: nothing is broken any more, and what an operator fenced or paused is lifted."""
        self.is_breaking = False
        self.link_cut_until_ms = self.slow_until_ms = 0
        self.cut_until_ms = dict.fromkeys(self.cut_until_ms, 0)
        self.controller_down_until_ms = 0
        world.commands.clear()
        world.ask(CommandKind.RESUME)
        for node in world.nodes.values():
            node.checkpointer_hangs_until_ms = node.frozen_until_ms = node.agent_frozen_until_ms = 0
            self._agent_down_until_ms[node.name] = world.now_ms
            if world.store.nodes[node.name].fence_held:
                world.ask(CommandKind.UNFENCE, node.name)
