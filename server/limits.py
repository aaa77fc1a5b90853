"""How much one caller may ask in a time, and when the whole is too much: token buckets and admission. Pure but for the clock.

Headers: draft-ietf-httpapi-ratelimit-headers (RateLimit, RateLimit-Policy). A request that could not be answered in time is refused at
once: a client that is told to come back later is better off than one that waits for nothing.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

_CALLERS_MAX = 10_000
_SMOOTHING = 0.1
_RATE_FIRST = 500.0
_PARDON_S = 5.0


class Verdict(msgspec.Struct, frozen=True):
    """Whether a request may go on; `left` requests now, and after how many seconds the next one is there."""

    is_allowed: bool
    left: int
    reset_s: int


class RateLimit:
    """`per_s` requests a second by each caller, `burst` at once. 0 a second: no limit."""

    def __init__(self, per_s: float, burst: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.per_s = per_s
        self.burst = burst
        self._monotonic = monotonic
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> Verdict:
        """One request of this caller."""
        now_s = self._monotonic()
        tokens, then_s = self._buckets.pop(caller, (float(self.burst), now_s))
        tokens = min(float(self.burst), tokens + (now_s - then_s) * self.per_s)
        is_allowed = tokens >= 1
        if is_allowed:
            tokens -= 1
        self._buckets[caller] = (tokens, now_s)
        while len(self._buckets) > _CALLERS_MAX:
            self._buckets.popitem(last=False)
        missing = max(0.0, 1 - tokens)
        return Verdict(is_allowed, int(tokens), math.ceil(missing / self.per_s))

    @property
    def policy(self) -> str:
        """RateLimit-Policy: the quota, and the seconds in which it is there again."""
        return f'"default";q={self.burst};w={math.ceil(self.burst / self.per_s)}'


class Admission:
    """Whether one more write fits before the others that wait: `queue_ms_max` of work, measured by how fast writes are answered
    while others wait. The first `free` always fit: so many may come at once when a primary is back."""

    def __init__(self, queue_ms_max: int, free: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.refused = 0
        self._queue_s_max = queue_ms_max / 1000
        self._free = free
        self._monotonic = monotonic
        self._rate = _RATE_FIRST
        self._last_s: float | None = None
        self._since = 0
        self._pardoned_until_s = 0.0

    def pardon(self) -> None:
        """Another primary has come: whoever waited for it comes all at once, and was promised an answer."""
        self._pardoned_until_s = self._monotonic() + _PARDON_S

    def answered(self, count: int, waiting: int) -> None:
        """So many writes were answered together; a rate is measured only while more are waiting: an idle server is not slow."""
        now_s = self._monotonic()
        if self._last_s is not None and now_s > self._last_s:
            self._since += count
            span_s = now_s - self._last_s
            if span_s >= 0.05:
                self._rate += _SMOOTHING * (self._since / span_s - self._rate)
                self._last_s, self._since = now_s, 0
        if waiting == 0:
            self._last_s = None
        elif self._last_s is None:
            self._last_s, self._since = now_s, 0

    def wait_s(self, waiting: int) -> float:
        """How long one more would wait behind so many."""
        return waiting / max(1.0, self._rate)

    def admits(self, waiting: int) -> bool:
        """Whether it fits; counts those that do not."""
        pardoned = self._monotonic() < self._pardoned_until_s
        fits = pardoned or waiting < self._free or self.wait_s(waiting) <= self._queue_s_max
        self.refused += not fits
        return fits
