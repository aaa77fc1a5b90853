"""The exhaustive mode: every choice of faults within a bound, at every moment that matters, on the real core.

From the healthy cluster the search tries, at every state, to go on without a fault, and each fault, each loss of a WAL's
end and each write that the bounds still allow; states are hashed, and none is expanded twice. Every path goes on without
faults until the cluster is healthy or asks a person, so each visited state is also shown to heal.

What is left out, and why that is sound. While nothing but time passes, a fault is tried at the first such moment only. A
path ends where the cluster is healthy again with nothing in flight: that is the start again, but for names and numbers,
with fewer faults left. Actions arrive in the step after they were sent, or as the faults say: never, late, or twice.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from failover.core.invariants import InvariantViolation
from failover.core.model import State
from tests.sim.cell import STEPS_MAX, Bounds, Cell, healthy_cell, is_at_rest, last_trouble_ms
from tests.sim.choices import Act, choices
from tests.sim.digest import digest
from tests.sim.world import WORDS_MAX

QUIET_STEPS = 60
KEPT_MAX = 20
_NOTHING = State()


class Violation(NamedTuple):
    """What went wrong, and the choices that led there: (step, name) each."""

    sentence: str
    trace: tuple[tuple[int, str], ...]
    steps: int


@dataclass
class Found:
    """The outcome of a search so far. `waiting`: paths that were begun and not yet followed."""

    states: int = 0
    paths: int = 0
    healthy: int = 0
    person: int = 0
    waiting: int = 0
    violations: tuple[Violation, ...] = ()


class _Snapshot(NamedTuple):
    """A cell as it was. What the store holds is one immutable value, which all may share."""

    blob: bytes
    store: State

    @classmethod
    def of(cls, cell: Cell) -> _Snapshot:
        store = cell.store
        cell.store = _NOTHING
        blob = pickle.dumps(cell, pickle.HIGHEST_PROTOCOL)
        cell.store = store
        return cls(blob, store)

    def restored(self) -> Cell:
        cell: Cell = pickle.loads(self.blob)  # noqa: S301  its own
        cell.store = self.store
        return cell


class _Branch(NamedTuple):
    """Where a path begins: what was there, and what is done to it."""

    before: _Snapshot
    act: Act
    left: Bounds
    trace: tuple[tuple[int, str], ...]


class Search:
    """`progress(found)` is called now and then. `breadth_first`: few choices first, so that the first trace found is a
    shortest one; without it, far less memory. `only`: just the choices whose names begin so. `wide`: every
    variant of a fault too. `share`: (number, of): only this share of the first choices."""

    def __init__(
        self,
        bounds: Bounds,
        *,
        broken: frozenset[str] = frozenset(),
        stop_at_first: bool = True,
        breadth_first: bool = False,
        only: Sequence[str] = (),
        wide: bool = False,
        share: tuple[int, int] = (0, 1),
        progress: Callable[[Found], None] = lambda _found: None,
    ) -> None:
        self.bounds = bounds
        self.found = Found()
        self._broken = broken
        self._stop = stop_at_first
        self._breadth_first = breadth_first
        self._only = tuple(only)
        self._wide = wide
        self._share = share
        self._progress = progress
        self._seen: set[bytes] = set()
        self._queue: deque[_Branch] = deque()
        self._first = 0

    def run(self) -> Found:
        """Search the whole bound."""
        start = _Snapshot.of(healthy_cell(self._broken))
        self._queue.append(_Branch(start, lambda _cell: None, self.bounds, ()))
        while self._queue and not (self._stop and self.found.violations):
            branch = self._queue.popleft() if self._breadth_first else self._queue.pop()
            cell = branch.before.restored()
            branch.act(cell)
            self._follow(cell, branch.left, branch.trace)
            self.found.paths += 1
            self.found.waiting = len(self._queue)
            if self.found.paths % 1_000 == 0:
                self._progress(self.found)
        return self.found

    def outcome(self, trace: Sequence[tuple[int, str]]) -> Violation | None:
        """What is wrong at the end of a path on which these choices were made, each (step, name), and no others."""
        cell, left = healthy_cell(self._broken), self.bounds
        for step, name in trace:
            while cell.steps < step:
                cell.advance()
            cost, act = next((cost, act) for known, cost, act in choices(cell, left, wide=True) if known == name)
            act(cell)
            left = _less(left, cost)
        self._follow(cell, Bounds(0, 0, 0), tuple(trace))
        return self.found.violations[0] if self.found.violations else None

    def _follow(self, cell: Cell, left: Bounds, trace: tuple[tuple[int, str], ...]) -> None:
        """Go on without another fault until the end of the path, queueing every choice."""
        quiet, last_shape = 0, b""
        for number in range(STEPS_MAX):
            if not number or cell.has_moved:
                known, shape = digest(cell, left)
                if known in self._seen:
                    return
                self._seen.add(known)
                self.found.states += 1
                if shape != last_shape:
                    last_shape = shape
                    self._branch(cell, left, trace)
            if number and is_at_rest(cell):
                self.found.healthy += 1
                return
            try:
                cell.advance()
                quiet = 0 if cell.has_moved or cell.now_ms < last_trouble_ms(cell) else quiet + 1
                if quiet > QUIET_STEPS and cell.asks_for_person():
                    obey(cell)
                    self.found.person += 1
                    return
            except (AssertionError, InvariantViolation) as error:
                self._violated(f"{type(error).__name__}: {error}", cell, trace)
                return
        self._violated(f"no convergence, last decisions {cell.kinds}", cell, trace)

    def _branch(self, cell: Cell, left: Bounds, trace: tuple[tuple[int, str], ...]) -> None:
        before = None
        for name, cost, act in choices(cell, left, wide=self._wide):
            if self._only and not name.startswith(self._only):
                continue
            if not trace:
                self._first += 1
                if self._first % self._share[1] != self._share[0]:
                    continue
            before = before or _Snapshot.of(cell)
            self._queue.append(_Branch(before, act, _less(left, cost), (*trace, (cell.steps, name))))

    def _violated(self, sentence: str, cell: Cell, trace: tuple[tuple[int, str], ...]) -> None:
        violation = Violation(sentence, trace, cell.steps)
        found = (*self.found.violations, violation)
        self.found.violations = tuple(sorted(found, key=lambda one: (len(one.trace), one.steps)))[:KEPT_MAX]


def obey(cell: Cell) -> None:
    """The person does what the alarms say, and then it must become healthy. Raises AssertionError."""
    for _ in range(WORDS_MAX):
        cell.obey_next_step()
        cell.settle_down(STEPS_MAX)
        if cell.is_settled():
            return
    raise AssertionError(f"what the alarms say does not help: {[alarm.sentence for alarm in cell.store.alarms]}")


def _less(left: Bounds, cost: Bounds) -> Bounds:
    return Bounds(left.writes - cost.writes, left.faults - cost.faults, left.lost_tails - cost.lost_tails)
