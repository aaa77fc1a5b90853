"""How long until a node's disk is full, from the bytes free over the last minutes."""

from __future__ import annotations

from collections import deque

_SAMPLES = 60
_BETWEEN_MS = 5_000
_SPAN_MS_MIN = 20_000


class StorageTrend:
    """One node's samples. Time is given to it."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=_SAMPLES)

    def note(self, bytes_free: int | None, now_ms: int) -> None:
        """A sample, at most one every 5 s."""
        if bytes_free is not None and (not self._samples or now_ms - self._samples[-1][0] >= _BETWEEN_MS):
            self._samples.append((now_ms, bytes_free))

    def full_in_s(self) -> int | None:
        """Seconds until nothing is free at the pace of the samples; None while it does not shrink or is too new."""
        if len(self._samples) < 2:
            return None
        (first_ms, first), (last_ms, last) = self._samples[0], self._samples[-1]
        span_ms, eaten = last_ms - first_ms, first - last
        if span_ms < _SPAN_MS_MIN or eaten <= 0:
            return None
        return int(last * span_ms / eaten / 1000)
