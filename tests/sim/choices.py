"""What may happen to the model cluster of the exhaustive mode, each under a name: a write, faults, the loss of a WAL's end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from failover.core.model import CommandKind
from replication.actions import Fence
from tests.sim.cell import Bounds, Cell
from tests.sim.node import ModelNode

SHORT_MS, LONG_MS = 400, 3_500
LATE_MS = 1_400
"""A renewal that is late by so much extends a lease that is counted from its arrival well beyond its time."""
LATER_THAN_TTL_MS = 2_500

Act = Callable[[Cell], None]
Choice = tuple[str, Bounds, Act]
"""Name, what it costs, and what it does."""
FAULT, TAIL, WRITE = Bounds(0, 1, 0), Bounds(0, 0, 1), Bounds(1, 0, 0)


def choices(cell: Cell, left: Bounds, *, wide: bool = False) -> Iterator[Choice]:
    """Everything that may happen now; `wide`: faults too that are a shorter, or a double, or the other node's of those."""
    if left.writes:
        yield "write", WRITE, _write
    if left.lost_tails:
        for node in cell.nodes.values():
            if (
                node.wal and node.wal[-1] > cell.records_at_start
            ):  # losing what was there before is losing an older write
                yield f"lose tail of {node.name}", TAIL, _lose_tail(node.name)
    if left.faults:
        yield from ((name, FAULT, act) for name, act in _faults(cell))
        if wide:
            yield from ((name, FAULT, act) for name, act in _more_faults(cell))


def _faults(cell: Cell) -> Iterator[tuple[str, Act]]:
    for node in cell.nodes.values():
        yield from _of_node(node)
    primary = cell.store.primary or "a"
    if cell.nodes[primary].process is not None:
        yield f"hang checkpointer of {primary}", _hang_checkpointer(primary)
    yield f"cut {primary} from controller", _cut(LONG_MS, primary)
    yield f"cut {primary} from all", _cut(LONG_MS, primary, link=True)
    yield "cut link for long", _cut(LONG_MS, link=True)
    yield "cut reader off", _cut_reader
    yield "kill both", _kill_both
    yield "controller dies", _controller_dies
    yield from _of_messages(cell)
    if cell.store.history and not cell.commands:
        standby = "b" if primary == "a" else "a"
        yield "operator fails over", _ask(CommandKind.FAILOVER, standby)


def _of_node(node: ModelNode) -> Iterator[tuple[str, Act]]:
    name = node.name
    if node.process is not None:
        yield f"kill {name}", _kill(name)
        yield f"hang {name} for long", _freeze(name, LONG_MS, agent=True, postgres=True)
    if node.is_agent_up:
        yield f"kill agent of {name}", _kill_agent(name, node_too=False, came_far=True)
        yield f"hang agent of {name}", _freeze(name, LONG_MS, agent=True, postgres=False)


def _of_messages(cell: Cell) -> Iterator[tuple[str, Act]]:
    for number, (due_ms, action) in enumerate(cell.in_flight):
        what = f"{'late ' if due_ms > cell.now_ms else ''}{type(action.op).__name__} to {action.node}"
        yield f"lose {what}", _move(number, None, keep=False)
        if not isinstance(action.op, Fence):  # a late fence is one more kill
            yield f"delay {what}", _move(number, LATER_THAN_TTL_MS, keep=False)
            yield f"double {what}", _move(number, LATE_MS, keep=True)
    if cell.renewals:
        yield "delay renewal", _delay_renewals


def _more_faults(cell: Cell) -> Iterator[tuple[str, Act]]:
    yield "cut link briefly", _cut(SHORT_MS, link=True)
    for node in cell.nodes.values():
        name = node.name
        if node.process is not None:
            yield f"hang {name} briefly", _freeze(name, SHORT_MS, agent=True, postgres=True)
        if node.is_agent_up:
            yield f"kill all of {name}", _kill_agent(name, node_too=True, came_far=True)
        if node.is_agent_up and node.doing is not None:
            yield f"kill agent of {name}, its work half done", _kill_agent(name, node_too=False, came_far=False)
        if name != cell.store.primary:
            yield f"hang checkpointer of {name}", _hang_checkpointer(name)
            yield f"cut {name} from controller", _cut(LONG_MS, name)
            yield f"cut {name} from all", _cut(LONG_MS, name, link=True)


def _write(cell: Cell) -> None:
    cell.writer.wanted += 1


def _lose_tail(name: str) -> Act:
    return lambda cell: cell.nodes[name].lose_tail(1)


def _kill(name: str) -> Act:
    return lambda cell: cell.nodes[name].die()


def _kill_both(cell: Cell) -> None:
    for node in cell.nodes.values():
        node.die()


def _ask(kind: CommandKind, node: str) -> Act:
    return lambda cell: cell.ask(kind, node)


def _controller_dies(cell: Cell) -> None:
    """Between the store and the sending: what it had decided last is never sent."""
    cell.in_flight, cell.renewals = [], []
    cell.faults.controller_down_until_ms = cell.now_ms + SHORT_MS


def _cut(for_ms: int, from_controller: str | None = None, *, link: bool = False) -> Act:
    def cut(cell: Cell) -> None:
        until_ms = cell.now_ms + for_ms
        if link:
            cell.faults.link_cut_until_ms = until_ms
        if from_controller is not None:
            cell.faults.cut_until_ms[from_controller] = until_ms

    return cut


def _cut_reader(cell: Cell) -> None:
    cell.reader.cut_until_ms = cell.now_ms + LONG_MS


def _move(number: int, by_ms: int | None, *, keep: bool) -> Act:
    def move(cell: Cell) -> None:
        due_ms, action = cell.in_flight[number]
        kept = [item for index, item in enumerate(cell.in_flight) if keep or index != number]
        cell.in_flight = kept if by_ms is None else [*kept, (due_ms + by_ms, action)]

    return move


def _delay_renewals(cell: Cell) -> None:
    cell.renewals = [(due_ms + LATE_MS, name, renewal) for due_ms, name, renewal in cell.renewals]


def _freeze(name: str, for_ms: int, *, agent: bool, postgres: bool) -> Act:
    def freeze(cell: Cell) -> None:
        node, until_ms = cell.nodes[name], cell.now_ms + for_ms
        if agent:
            node.agent_frozen_until_ms = until_ms
        if postgres:
            node.frozen_until_ms = until_ms

    return freeze


def _hang_checkpointer(name: str) -> Act:
    def hang(cell: Cell) -> None:
        cell.nodes[name].checkpointer_hangs_until_ms = cell.now_ms + LONG_MS

    return hang


def _kill_agent(name: str, *, node_too: bool, came_far: bool) -> Act:
    def kill(cell: Cell) -> None:
        node, faults = cell.nodes[name], cell.faults
        chance: Any = cell.random
        chance.high = not came_far
        cell.agent_dies(node)
        chance.high = True
        if node_too:
            node.die()
        faults.agent_down_until_ms[name] = cell.now_ms + SHORT_MS

    return kill
