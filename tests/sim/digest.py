"""What two states of the exhaustive mode have in common when every rule must treat them alike.

Left out: words for people, absolute times (ages count, up to the longest time-out), the height of revisions and of record
numbers (their order counts), and how actions ended that nobody waits for any more.
"""

from __future__ import annotations

import hashlib
import marshal
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import msgspec

from replication.actions import Action
from tests.sim.cell import Bounds, Cell
from tests.sim.node import ModelNode

AGE_MS_MAX = 4_000
_WORDS = frozenset(
    {"sentence", "since", "at", "eligible_reason", "rebuild_reason", "pause_reason", "reason", "evidence", "incident"}
    | {"incident_verdict", "seq", "history", "broken", "starts", "observed_clock_ms", "clock_ms", "since_ms"}
    | {
        "began_ms",
        "started_ms",
        "exit_sentence",
        "is_breaking",
        "name",
        "doing",
        "results",
        "high",
        "lease_until_clock_ms",
    }
)
_DURATIONS = frozenset({"deadline_ms", "for_ms", "delay_ms", "_delay_ms"})
_ATOMS = (int, str, bool, type(None), float)


def digest(cell: Cell, left: Bounds) -> tuple[bytes, bytes]:
    """Of the state, and of the state but for how long things last."""
    view = _View(cell)
    shape = marshal.dumps((tuple(left), view.whole()), 2)
    whole = hashlib.blake2b(shape, digest_size=12)
    whole.update(marshal.dumps(view.ages, 2))
    return whole.digest(), hashlib.blake2b(shape, digest_size=12).digest()


class _View:
    """One state as nested tuples, its times aside in `ages`."""

    def __init__(self, cell: Cell) -> None:
        self.ages: list[int] = []
        self._cell = cell
        self._now_ms = cell.now_ms
        self._records: dict[int, int] = {}
        records = cell.store.nodes.values()
        self._awaited = {record.pending.revision for record in records if record.pending is not None}
        numbers = {cell.store.revision, *self._awaited, *(node.revision for node in cell.nodes.values())}
        numbers |= {action.revision for _, action in cell.in_flight}
        numbers |= {record.compared_revision or 0 for record in records}
        numbers |= {record.receipts_revision or 0 for record in records}
        self._rank = {number: rank for rank, number in enumerate(sorted(numbers))}

    def whole(self) -> object:
        cell = self._cell
        nodes = tuple(self._node(node) for node in cell.nodes.values())
        flight = sorted(cell.in_flight, key=lambda item: (item[1].revision, item[0]))
        return (
            nodes,
            self._any(cell.store),
            tuple((self._age(due_ms), self._clock_age(action), self._any(action)) for due_ms, action in flight),
            tuple((self._age(due_ms), node, renewal.boot_id) for due_ms, node, renewal in cell.renewals),
            tuple(tuple(self._any(vars(server))) for server in cell.servers),
            tuple(self._any(command.kind) for command in cell.commands),
            self._known(cell.acknowledged),
            self._known(cell.receipts),
            tuple(self._age(cell.unmoved_since_ms[name]) for name in cell.nodes),
            self._any(vars(cell.faults)),
            cell.person_asked,
            cell.superseded_by,
            self._age(cell.superseded_ms),
            self._any(cell.refused),
        )

    def _node(self, node: ModelNode) -> object:
        doing = None
        if node.doing is not None:
            doing = (self._rank.get(node.doing[0].revision), type(node.doing[0].op).__name__, self._age(node.doing[1]))
        results = tuple(
            (self._rank[done.revision], done.ok, done.reason) for done in node.results if done.revision in self._awaited
        )
        self.ages.append(max(-50, node.lease_until_clock_ms - node.clock_ms))
        return self._any(node), doing, results

    def _known(self, records: set[int]) -> object:
        return tuple(sorted(self._record(record) for record in records))

    def _record(self, record: int) -> int:
        return self._records.setdefault(record, len(self._records))

    def _age(self, at_ms: int) -> int:
        self.ages.append(max(-AGE_MS_MAX, at_ms - self._now_ms))
        return 0

    def _clock_age(self, action: Action) -> int:
        """How old the observation is that it answers, on the clock of its agent."""
        self.ages.append(min(AGE_MS_MAX, self._cell.nodes[action.node].clock_ms - action.observed_clock_ms))
        return 0

    def _any(self, value: Any) -> Any:
        kind = type(value)
        if kind in _ATOMS:
            return value
        if kind is tuple or kind is list:
            return tuple([self._any(item) for item in value])
        if kind is dict:
            return self._mapping(value)
        reader = _READERS.get(kind)
        if reader is None:
            reader = _READERS[kind] = _reader_of(kind)
        return reader(self, value)

    def _mapping(self, value: dict[str, Any]) -> Any:
        return tuple([(key, field_of(key)(self, value[key])) for key in value if key not in _WORDS])


Reader = Callable[[_View, Any], Any]
_READERS: dict[type, Reader] = {}


def _until(view: _View, value: int | None) -> object:
    if value is None:
        return None
    view.ages.append(max(0, value - view._now_ms))
    return value > view._now_ms


def _since(view: _View, value: int | None) -> object:
    return None if value is None else view._age(value)


def _revision(view: _View, value: int | None) -> object:
    return None if value is None else view._rank.get(value, -1)


def _wal(view: _View, value: list[int]) -> object:
    return tuple([view._record(record) for record in value])


def _waiting(view: _View, value: list[tuple[int, int, int]]) -> object:
    return tuple([(view._record(record), lsn, view._age(since_ms)) for record, lsn, since_ms in value])


def _times(view: _View, value: dict[str, int]) -> object:
    return tuple([(name, _until(view, at_ms)) for name, at_ms in value.items()])


def _pushed(view: _View, value: list[tuple[int, Any]]) -> object:
    return tuple([(view._age(due_ms), view._any(topology)) for due_ms, topology in value])


def _heard(view: _View, value: dict[str, int]) -> object:
    return tuple([(name, view._age(at_ms)) for name, at_ms in value.items()])


_OF: dict[str, Reader] = {
    "wal": _wal,
    "waiting": _waiting,
    "incident": lambda _view, value: value is not None,
    "agent_down_until_ms": _times,
    "heard_from_ms": _heard,
    "_coming": _pushed,
    "_last": lambda _view, _value: None,
    "_pending": lambda view, value: None if value is None else (value[0], view._record(value[1])),
}


def field_of(key: str) -> Reader:
    """How a field of this name is read."""
    if key in _OF:
        return _OF[key]
    if key == "cut_until_ms":
        return lambda view, value: _times(view, value) if isinstance(value, dict) else _until(view, value)
    if key in _DURATIONS:
        return _View._any
    if key.endswith("_until_ms") or key.endswith("retry_after_ms"):
        return _until
    if key.endswith("_ms"):
        return _since
    if key.endswith("revision"):
        return _revision
    return _View._any


def _reader_of(kind: type) -> Reader:
    if issubclass(kind, Enum):
        return lambda _view, value: value.value
    if issubclass(kind, set | frozenset):
        return lambda view, value: tuple(sorted(value))
    names: list[str] = []
    if issubclass(kind, msgspec.Struct):
        names = list(kind.__struct_fields__)
    elif is_dataclass(kind):
        names = [item.name for item in fields(kind)]
    else:
        raise TypeError(f"no way to read a {kind}")
    readers = tuple((name, field_of(name)) for name in names if name not in _WORDS)
    label = kind.__name__
    return lambda view, value: (label, *[read(view, getattr(value, name)) for name, read in readers])
