"""What two states of the exhaustive mode have in common when every rule must treat them alike.

Left out: words for people, absolute times (ages count, up to the longest time that a rule compares them with), the height
of revisions and of record numbers (their order counts), and how actions ended that nobody waits for any more.
"""

from __future__ import annotations

import functools
import hashlib
import marshal
from bisect import bisect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from operator import attrgetter
from typing import Any

import msgspec

from replication.actions import Action
from tests.sim.cell import POLICY, Bounds, Cell
from tests.sim.checks import SLACK_MS
from tests.sim.clients import ModelServer
from tests.sim.node import ModelNode
from tests.sim.streaming import CATCH_UP_MS, TIMEOUT_MS
from tests.sim.world import STEP_MS

AGE_MS_MAX = 60_000
"""Above every time-out of the policy."""
TOLD_MS_MAX = POLICY.lease_ttl_ms + SLACK_MS + 100
CAPS_MS = {
    "beat_began_ms": POLICY.lease_ttl_ms,
    "beat_returned_ms": POLICY.lease_ttl_ms,
    "proof_began_ms": POLICY.lease_ttl_ms,
    "_proved_ms": POLICY.lease_ttl_ms,
    "lost_since_ms": POLICY.standby_lost_ms,
    "flush_seen_ms": POLICY.standby_lost_ms,
    "waiting": POLICY.standby_lost_ms,
    "_failing_since_ms": POLICY.probe_deadline_ms,
    "unstreamed_since_ms": POLICY.stream_deadline_ms,
    "waits_for_peer_since_ms": POLICY.cold_start_ms,
}
"""From this age on the rule that looks at it says the same for ever."""
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
        "agent_stalled_ms",
        "fault_since_ms",
        "confirmed_ms",
        "connected_ms",
        "heard_ms",
        "process",
        "places_read_ms",
        "now_ms",
    }
)
"""The last eight are read by hand, or count for nothing in a cell: no page of it is damaged."""
_DURATIONS = frozenset({"deadline_ms", "for_ms", "delay_ms", "_delay_ms"})
_ATOMS = frozenset({int, str, bool, type(None), float})


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
            tuple((self._age(due_ms), self._in_flight(action)) for due_ms, action in flight),
            tuple((self._age(due_ms), node, renewal.boot_id) for due_ms, node, renewal in cell.renewals),
            tuple(tuple(self._any(vars(server))) for server in cell.servers),
            tuple(self._any(command.kind) for command in cell.commands),
            self._known(cell.acknowledged),
            self._known(cell.receipts),
            tuple(self._age(cell.unmoved_since_ms[name], POLICY.probe_deadline_ms) for name in cell.nodes),
            self._any(vars(cell.faults)),
            cell.person_asked,
            cell.superseded_by,
            tuple(self._served_on_ms(node) for node in cell.nodes.values()),
            tuple(self._is_proved(server) for server in cell.servers),
            self._any(cell.refused),
            self._memory_of_checks(),
        )

    def _node(self, node: ModelNode) -> object:
        doing = None
        if node.doing is not None:
            doing = (self._rank.get(node.doing[0].revision), type(node.doing[0].op).__name__, self._age(node.doing[1]))
        results = tuple(
            (self._rank[done.revision], done.ok, done.reason) for done in node.results if done.revision in self._awaited
        )
        self.ages.append(max(-STEP_MS, node.lease_until_clock_ms - node.clock_ms))
        pending = self._cell.store.nodes[node.name].pending
        if pending is not None:
            self._clock_age(node.name, pending.observed_clock_ms)
        return self._any(node), self._running(node), doing, results

    def _running(self, node: ModelNode) -> object:
        process = node.process
        if process is None:
            return None
        if process.in_recovery:
            self._age(process.connected_ms, CATCH_UP_MS)
            self._age(process.heard_ms, TIMEOUT_MS)
        has_returned = node.beat_began_ms is not None and process.confirmed_ms > node.beat_began_ms
        return process.name, self._any(process), has_returned

    def _served_on_ms(self, node: ModelNode) -> int:
        """For how long a primary has served on beside another that was promoted: see `Checks.check_superseded`."""
        cell = self._cell
        if cell.superseded_by in (None, node.name):
            return 0
        return self._age(max(cell.superseded_ms, node.agent_stalled_ms), TOLD_MS_MAX)

    def _is_proved(self, server: ModelServer) -> bool:
        """The commit that it waits for has come back."""
        node = self._cell.nodes[server.primary] if server.primary is not None else None
        process, began_ms = node.process if node is not None else None, server.proof_began_ms
        return process is not None and began_ms is not None and process.confirmed_ms > began_ms

    def _known(self, records: set[int]) -> object:
        return tuple(sorted(self._record(record) for record in records))

    def _record(self, record: int) -> int:
        return self._records.setdefault(record, len(self._records))

    def _age(self, at_ms: int, max_ms: int = AGE_MS_MAX) -> int:
        self.ages.append(max(-max_ms, at_ms - self._now_ms))
        return 0

    def _in_flight(self, action: Action) -> object:
        self._clock_age(action.node, action.observed_clock_ms)
        return self._any(action), self._cell.is_written_off(action)

    def _clock_age(self, node: str, observed_clock_ms: int) -> None:
        """How old an observation is, on the clock of its agent."""
        self.ages.append(min(POLICY.action_ttl_ms + STEP_MS, self._cell.nodes[node].clock_ms - observed_clock_ms))

    def _memory_of_checks(self) -> object:
        """What the checks remember and may still use."""
        cell = self._cell
        for record in sorted(cell.receipts):
            self._age(cell.told_ms(record), TOLD_MS_MAX)
        terms = {node.term: cell.primary_of_term(node.term) for node in cell.nodes.values()}
        known = sorted(self._records)
        opened_by, kept, at_choice = cell.opened_by_receipts()
        return opened_by, bisect(known, kept), bisect(known, at_choice), tuple(terms.items())

    def _any(self, value: Any) -> Any:
        kind = type(value)
        if kind in _ATOMS:
            return value
        if kind is tuple or kind is list:
            return tuple([item if item.__class__ in _ATOMS else self._any(item) for item in value])
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


def _since(cap_ms: int) -> Reader:
    return lambda view, value: None if value is None else view._age(value, cap_ms)


def _revision(view: _View, value: int | None) -> object:
    return None if value is None else view._rank.get(value, -1)


def _wal(view: _View, value: list[int]) -> object:
    return tuple([view._record(record) for record in value])


def _waiting(view: _View, value: list[tuple[int, int, int]]) -> object:
    cap_ms = CAPS_MS["waiting"]
    return tuple([(view._record(record), lsn, view._age(since_ms, cap_ms)) for record, lsn, since_ms in value])


def _times(view: _View, value: dict[str, int]) -> object:
    return tuple([(name, _until(view, at_ms)) for name, at_ms in value.items()])


def _pushed(view: _View, value: list[tuple[int, Any]]) -> object:
    return tuple([(view._age(due_ms), view._any(topology)) for due_ms, topology in value])


def _heard(view: _View, value: dict[str, int]) -> object:
    return tuple([(name, view._age(at_ms, TIMEOUT_MS)) for name, at_ms in value.items()])


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


_plain: Reader = _View._any


@functools.cache
def field_of(key: str) -> Reader:
    """How a field of this name is read."""
    if key in _OF:
        return _OF[key]
    if key == "cut_until_ms":
        return lambda view, value: _times(view, value) if isinstance(value, dict) else _until(view, value)
    if key in _DURATIONS:
        return _plain
    if key.endswith("_until_ms") or key.endswith("retry_after_ms"):
        return _until
    if key.endswith("_ms"):
        return _since(CAPS_MS.get(key, AGE_MS_MAX))
    if key.endswith("revision"):
        return _revision
    return _plain


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
    names = [name for name in names if name not in _WORDS]
    label, readers = kind.__name__, [field_of(name) for name in names]
    if len(names) < 2:
        return lambda view, value: (label, *[read(view, getattr(value, names[0])) for read in readers])
    values_of = attrgetter(*names)
    return lambda view, value: (
        label,
        *[
            item if read is _plain and item.__class__ in _ATOMS else read(view, item)
            for read, item in zip(readers, values_of(value), strict=True)
        ],
    )
