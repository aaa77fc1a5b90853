"""The model cluster of the exhaustive mode: nothing happens by chance, and everything that may happen has a name.

One server writes when it is told to, another one reads all the time. Heartbeats leave no records, time-outs are short.
"""

from __future__ import annotations

from typing import NamedTuple

from failover.core.model import Policy
from replication.actions import Op
from tests.sim.clients import ModelServer
from tests.sim.node import ModelNode
from tests.sim.world import STEP_MS, World

POLICY = Policy(
    cold_start_ms=1_500,
    peer_alarm_ms=500,
    stream_deadline_ms=3_000,
    retry_ms=200,
    retry_ms_max=400,
    lease_ttl_ms=1_500,
    action_ttl_ms=2_000,
)
SLOW_OP_MS = 100
STEPS_MAX = 1_200
IDLE_STEPS_A_TICK = 4


class Bounds(NamedTuple):
    """How much may happen on one path. A lost tail kills its node and is no other fault."""

    writes: int = 1
    faults: int = 2
    lost_tails: int = 1


class _Still:
    """Takes the place of the random faults: nothing happens that the search has not chosen."""

    def __init__(self) -> None:
        self.is_breaking = False
        self.link_cut_until_ms = self.slow_until_ms = self.controller_down_until_ms = 0
        self.cut_until_ms = {"a": 0, "b": 0}
        self.agent_down_until_ms = {"a": 0, "b": 0}

    def come_back(self, world: World) -> None:
        for node in world.nodes.values():
            if not node.is_agent_up and world.now_ms >= self.agent_down_until_ms[node.name]:
                node.restart_agent()

    def controller_dies(self, world: World) -> bool:
        return False

    def delays(self, world: World, *, dies: bool) -> tuple[int, ...]:
        return (0,)

    def renewal_delay_ms(self, world: World) -> int:
        return 0


class _NoChance:
    """`random.Random` of a world in which nothing is left to chance. `high`: what an interrupted action had come to."""

    def __init__(self) -> None:
        self.high = True

    def random(self) -> float:
        return 0.99 if self.high else 0.0

    def randint(self, low: int, high: int) -> int:
        return low


class Writer(ModelServer):
    """Writes once for each time it is told to, and reads nothing."""

    def __init__(self) -> None:
        super().__init__("writer", delay_ms=STEP_MS)
        self.wanted = 0

    def read(self, world: World) -> None:
        """Not this one."""

    def write(self, world: World, node: ModelNode | None) -> None:
        if self.wanted == 0:
            if node is not None and self._is_waiting(node):
                self._fails(world.now_ms)
            else:
                self._failing_since_ms = None
            return
        before = world.records
        super().write(world, node)
        if world.records != before:
            self.wanted -= 1


class Reader(ModelServer):
    """Reads all the time, and writes nothing."""

    def __init__(self) -> None:
        super().__init__("reader", delay_ms=STEP_MS)

    def write(self, world: World, node: ModelNode | None) -> None:
        """Not this one."""


class Cell(World):
    """A world that only does what the search says."""

    def __init__(self, broken: frozenset[str] = frozenset()) -> None:
        super().__init__(0, broken)
        self.policy = POLICY
        self.random = _NoChance()  # type: ignore[assignment]
        self.faults = _Still()  # type: ignore[assignment]
        self.writer, self.reader = Writer(), Reader()
        self.servers = (self.writer, self.reader)
        self.steps = self.records_at_start = 0
        self.writes_beats = False
        self._idle_steps = 0
        self.has_moved = True
        """The last step did more than to let time pass."""

    def duration_ms(self, op: Op) -> int:
        """Long or short: nothing else matters."""
        return min(super().duration_ms(op), SLOW_OP_MS)

    def is_tick_due(self) -> bool:
        """In every step in which something moves, else now and then."""
        return self._idle_steps % IDLE_STEPS_A_TICK == 0

    def step(self) -> None:
        """Note whether anything moves."""
        before = self._sketch()
        super().step()
        self.has_moved = self._sketch() != before
        self._idle_steps = 0 if self.has_moved else self._idle_steps + 1

    def advance(self) -> None:
        """One step, without the memory that no rule needs."""
        self.steps += 1
        self.kinds = self.kinds[-2:]
        self.seen_before = []
        self.step()

    def _sketch(self) -> tuple[object, ...]:
        """What changes in every step that does more than to let time pass. `object()`: something is under way."""
        nodes = self.nodes.values()
        if self.in_flight or self.commands or any(node.doing is not None for node in nodes):
            return (object(),)
        return (
            id(self.store),
            self.writer.wanted,
            *((server.primary, server.cut_until_ms > self.now_ms) for server in self.servers),
            len(self.acknowledged),
            *self.faults.cut_until_ms.values(),
            *(_sketch_of(node) for node in nodes),
        )


def _sketch_of(node: ModelNode) -> tuple[object, ...]:
    process = node.process
    if process is None:
        return node.is_agent_up, len(node.wal)
    senders = tuple((name, number) for name, (number, _) in process.senders.items())
    return (
        node.is_agent_up,
        len(node.wal),
        process.incarnation,
        process.names,
        process.receiver_since,
        len(process.waiting),
        senders,
    )


def healthy_cell(broken: frozenset[str] = frozenset()) -> Cell:
    """The start: healthy, nothing in flight."""
    cell = Cell(broken)
    for _ in range(STEPS_MAX):
        cell.advance()
        if cell.store.history and cell.renewals and is_at_rest(cell):
            cell.steps, cell.records_at_start = 0, cell.records
            return cell
    raise AssertionError("the model cluster did not become healthy")


def is_at_rest(cell: Cell) -> bool:
    """Healthy, and nothing that was done to it is left."""
    return (
        not cell.in_flight
        and not cell.commands
        and cell.store.incident is None
        and all(record.pending is None for record in cell.store.nodes.values())
        and all(node.is_agent_up and node.doing is None for node in cell.nodes.values())
        and cell.now_ms >= last_trouble_ms(cell)
        and cell.writer.wanted == 0
        and cell.reader.primary == cell.store.primary
        and not any(node.process is None or node.process.waiting for node in cell.nodes.values())
        and cell.is_settled()
    )


def last_trouble_ms(cell: Cell) -> int:
    """When the last fault that lasts is over."""
    nodes = cell.nodes.values()
    return max(
        cell.faults.link_cut_until_ms,
        cell.faults.controller_down_until_ms,
        cell.reader.cut_until_ms,
        *(due_ms for due_ms, _ in cell.in_flight),
        *(due_ms for due_ms, _, _ in cell.renewals),
        *cell.faults.cut_until_ms.values(),
        *(node.frozen_until_ms for node in nodes),
        *(node.agent_frozen_until_ms for node in nodes),
        *(node.checkpointer_hangs_until_ms for node in nodes),
    )
