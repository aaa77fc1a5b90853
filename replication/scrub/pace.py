"""How much of its budget the search for damage may use now: less while the processors have other work.

Bookings need the processor before the search does, and a queue for it shows in their latency too late. The share is that of the
budget, so that a pass still ends, and damage is still found, on a machine that is never idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

FLOOR = 0.1
"""The share while nothing is idle."""
_IDLE_FULL, _IDLE_NONE = 0.5, 0.2
_LOOK_EVERY_S = 0.5
_STAT = Path("/proc/stat")
_IDLE = 3
"""proc(5). Not iowait: somebody waits for the disk then, which the search would have to share with him."""


class Pace:
    """`read` gives (idle, all) ticks of all processors since the start, or None where the system does not tell: no brake
    then. It reads memory, not a disk, so that it may be asked on the event loop."""

    def __init__(
        self,
        read: Callable[[], tuple[int, int] | None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read or ticks
        self._monotonic = monotonic
        self._known = self._read()
        self._looked_s = monotonic()
        self._share = 1.0

    def share(self) -> float:
        """`FLOOR` to 1, from how idle the processors were in the last half second or more."""
        now_s = self._monotonic()
        if now_s - self._looked_s < _LOOK_EVERY_S:
            return self._share
        known, self._known, self._looked_s = self._known, self._read(), now_s
        if known is None or self._known is None or self._known[1] <= known[1]:
            return self._share
        self._share = share((self._known[0] - known[0]) / (self._known[1] - known[1]))
        return self._share


def share(idle: float) -> float:
    """The share of the budget when so much (0 to 1) of the processors is idle. Pure."""
    spare = (idle - _IDLE_NONE) / (_IDLE_FULL - _IDLE_NONE)
    return min(1.0, max(FLOOR, spare))


def ticks(path: Path = _STAT) -> tuple[int, int] | None:
    """(idle, all) since the start of the system, from the first line of /proc/stat; None where there is none."""
    try:
        head = path.read_bytes().partition(b"\n")[0].split()
        columns = [int(word) for word in head[1:9]]  # guests are counted among user
    except (OSError, ValueError):
        return None
    return (columns[_IDLE], sum(columns)) if len(columns) > _IDLE else None
