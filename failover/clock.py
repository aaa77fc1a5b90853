"""The cluster's clock, and how punctual this process is: a loop that slept itself may conclude nothing from silence."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

Monotonic = Callable[[], float]

_NAP_S = 0.05
_REMEMBERED = 64
_LAG_MS_MIN = 10


class ClusterClock:
    """Milliseconds that never fall and do not advance while no controller runs: they go on from the stored state."""

    def __init__(self, base_ms: int, monotonic: Monotonic = time.monotonic) -> None:
        self._base_ms = base_ms
        self._monotonic = monotonic
        self._began = monotonic()

    def now_ms(self) -> int:
        """The cluster's time."""
        return self._base_ms + int((self._monotonic() - self._began) * 1000)


class LoopLag:
    """How late the event loop woke, measured by a task that sleeps 50 ms at a time."""

    def __init__(self, monotonic: Monotonic = time.monotonic) -> None:
        self._monotonic = monotonic
        self._due: float | None = None
        self._lags: deque[tuple[float, int]] = deque(maxlen=_REMEMBERED)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._due = self._monotonic() + _NAP_S
            await asyncio.sleep(_NAP_S)
            self.note()

    def note(self) -> None:
        """The nap has ended: remember by how much too late."""
        now = self._monotonic()
        late_ms = _late_ms(self._due, now)
        if late_ms >= _LAG_MS_MIN:
            self._lags.append((now, late_ms))
        self._due = None

    def worst_ms(self, since: float) -> int:
        """The worst lag that ended after this moment of the monotonic clock, the nap under way included."""
        worst = max((late_ms for ended, late_ms in self._lags if ended >= since), default=0)
        return max(worst, _late_ms(self._due, self._monotonic()))


def _late_ms(due: float | None, now: float) -> int:
    return 0 if due is None else max(0, int((now - due) * 1000))
