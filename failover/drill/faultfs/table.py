"""The faults that are armed now, which of them strike an operation, and the log of those that did. Thread-safe."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from failover.drill.faultfs.spec import ON_DATA, Fault, Kind, Op
from failover.drill.faultfs.spoiled import Healed, Spoiled

FIRED_KEPT_MAX = 20_000


class Fired(msgspec.Struct, frozen=True):
    """A fault has struck. `block`: the first block of the operation, None for one on the file as a whole.

    `existed`: the block lay within the file before, so that something that was there is concerned.
    """

    number: int
    fault: int
    kind: str
    op: str
    path: str
    block: int | None
    existed: bool
    at: str


class Armed:
    """A fault under its number, and what it has done. `healed` is set when it ends."""

    def __init__(self, number: int, fault: Fault, now_s: float) -> None:
        self.number = number
        self.fault = fault
        self.fired = 0
        self.healed = threading.Event()
        self.random = random.Random(fault.seed)  # noqa: S311  to be repeatable, not secret
        self._until_s = now_s + fault.duration_ms / 1000 if fault.duration_ms is not None else None

    def remaining_s(self, now_s: float) -> float | None:
        """How long it will last; None when it ends by a command only."""
        return None if self._until_s is None else max(0.0, self._until_s - now_s)

    def is_over(self, now_s: float) -> bool:
        """Healed, used up, or its time is over."""
        used_up = self.fault.count is not None and self.fired >= self.fault.count
        return self.healed.is_set() or used_up or self.remaining_s(now_s) == 0.0

    def shown(self, now_s: float) -> dict[str, object]:
        """For `list`."""
        return {
            "id": self.number,
            "fault": msgspec.to_builtins(self.fault),
            "fired": self.fired,
            "over": self.is_over(now_s),
        }


class FaultTable:
    """`told(fired)`: called for each fault that strikes, for the log on disk. `clock`: seconds, monotonic."""

    def __init__(
        self, told: Callable[[Fired], None] = lambda _fired: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._told = told
        self._clock = clock
        self._lock = threading.Lock()
        self._armed: dict[int, Armed] = {}
        self._numbers = itertools.count(1)
        self._events = itertools.count(1)
        self._fired: deque[Fired] = deque(maxlen=FIRED_KEPT_MAX)
        self._spoiled = Spoiled()

    def arm(self, fault: Fault) -> int:
        """Its number."""
        with self._lock:
            number = next(self._numbers)
            self._armed = {**self._armed, number: Armed(number, fault, self._clock())}
            return number

    def disarm(self, number: int | None = None) -> int:
        """Heal one fault, or all: how many there were. What it holds up goes on."""
        with self._lock:
            ended = [armed for armed in self._armed.values() if number in (None, armed.number)]
            self._armed = {key: armed for key, armed in self._armed.items() if armed not in ended}
        for armed in ended:
            armed.healed.set()
        return len(ended)

    def armed(self) -> list[dict[str, object]]:
        """All that were armed and not healed, those that are used up too."""
        now_s = self._clock()
        return [armed.shown(now_s) for armed in self._armed.values()]

    def fired(self, after: int = 0) -> list[Fired]:
        """What has struck since event `after`."""
        with self._lock:
            return [fired for fired in self._fired if fired.number > after]

    def written_again(self, path: str, offset: int, data: bytes) -> None:
        """A write that no fault changed has arrived."""
        if not self._spoiled.is_empty:
            with self._lock:
                self._spoiled.written_again(path.lstrip("/"), offset, data, _now())

    def gone(self, path: str) -> None:
        """The file of this name was removed, or has another name now."""
        if not self._spoiled.is_empty:
            with self._lock:
                self._spoiled.gone(path.lstrip("/"), _now())

    def healed(self) -> list[Healed]:
        """Strikes of which nothing is left on the disk."""
        with self._lock:
            return list(self._spoiled.healed)

    def is_active(self, op: Op, kind: str) -> bool:
        """A fault of this kind on all files is armed: the disk as a whole looks so (statfs)."""
        now_s = self._clock()
        return any(
            armed.fault.kind == kind
            and op in armed.fault.ops()
            and armed.fault.path is None
            and not armed.is_over(now_s)
            for armed in self._armed.values()
        )

    @property
    def is_empty(self) -> bool:
        """No fault is armed."""
        return not self._armed

    def strike(self, op: Op, path: str, blocks: tuple[int, int] | None = None, *, size: int = 0) -> list[Armed]:
        """Those that strike this operation, logged and counted. `blocks`: first and last; `size`: of the file now."""
        if not self._armed:
            return []
        first, last = blocks if blocks is not None else (None, None)
        now_s = self._clock()
        struck = []
        with self._lock:
            for armed in self._armed.values():
                fault = armed.fault
                if armed.is_over(now_s) or not fault.concerns(op, path, first, last):
                    continue
                if (first is None and fault.kind in ON_DATA) or armed.random.random() >= fault.probability:
                    continue
                armed.fired += 1
                struck.append(armed)
                number = self._note(armed, op, path, first, size)
                if op is Op.WRITE and fault.kind in ON_DATA and first is not None and last is not None:
                    self._spoiled.add(number, spoiled_by(fault, path.lstrip("/"), first, last))
        return struck

    def _note(self, armed: Armed, op: Op, path: str, block: int | None, size: int) -> int:
        existed = block is None or block * 8192 < size
        number = next(self._events)
        fired = Fired(number, armed.number, armed.fault.kind.value, op.value, path.lstrip("/"), block, existed, _now())
        self._fired.append(fired)
        self._told(fired)
        return number


def spoiled_by(fault: Fault, path: str, first: int, last: int) -> list[tuple[str, int]]:
    """The blocks whose content is not what was written there last: (file, block)."""
    own = [(path, block) for block in range(first, last + 1)]
    if fault.kind is not Kind.MISDIRECTED_WRITE:
        return own
    at = fault.to_block or 0
    target = (fault.to_path or path).lstrip("/")
    return [*own, *((target, at + number) for number in range(last - first + 1))]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
