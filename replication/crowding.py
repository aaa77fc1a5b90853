"""Whether a silence is that of a process that hangs, or of one that waits for a processor like everybody else.

Linux counts the time in which some process was ready to run and had no processor (PSI, https://docs.kernel.org/accounting/psi.html).
Silence that fell into a time in which that was so most of the time proves nothing yet: it counts three times as late. A hang on a
crowded machine is thus found later, and a crowded machine is not taken for a hang.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

TIMES = 3
"""How many times as long a crowded silence may last; with the usual 750 ms less than the lease of 3 s."""
_CROWDED = 0.6
_PRESSURE = Path("/proc/pressure/cpu")


class Mark(msgspec.Struct, frozen=True):
    """A moment: seconds of a monotonic clock, and how long somebody had waited for a processor until then."""

    at_s: float
    waited_s: float | None


class Crowding:
    """`waited_s` gives the time since the start in which some process waited; None where the system does not tell, and then
    nothing is excused. Reads memory, not a disk: it may be asked on the event loop, and from any thread."""

    def __init__(
        self, waited_s: Callable[[], float | None] | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._waited_s = waited_s or pressure_s
        self._monotonic = monotonic

    def mark(self) -> Mark:
        """From here on."""
        return Mark(self._monotonic(), self._waited_s())

    def times(self, since: Mark) -> int:
        """How many times the usual deadline a silence may last that began then: 1, or `TIMES`."""
        waited_s, over_s = self._waited_s(), self._monotonic() - since.at_s
        if waited_s is None or since.waited_s is None or over_s <= 0:
            return 1
        return TIMES if (waited_s - since.waited_s) / over_s >= _CROWDED else 1


def pressure_s(path: Path = _PRESSURE) -> float | None:
    """`total` of the first line (`some avg10=… total=MICROSECONDS`); None without PSI."""
    try:
        words = path.read_bytes().partition(b"\n")[0].split()
        return int(words[-1].removeprefix(b"total=")) / 1_000_000 if words[:1] == [b"some"] else None
    except (OSError, ValueError, IndexError):
        return None
