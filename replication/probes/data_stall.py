"""A disk that does not finish one read or write of a data file, while others and the disk probe go on. Pure.

PostgreSQL says who waits for a data file (src/backend/utils/activity/wait_event_names.txt), but not since when: one that reads a
whole table is at every look found in such a wait. The kernel counts how often a process went to sleep (proc_pid_status(5),
voluntary_ctxt_switches): who is in the same wait, and has not woken up meanwhile, waits for the same block. An fsync is none of it: it
may take long on a disk that is well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

DATA_STALLED_MS = 3_000
"""One block that takes so long is none that comes."""
WAITS = ("datafileread", "datafilewrite", "datafileextend", "slruread", "slruwrite")


class DataStall:
    """Of one start of PostgreSQL. `sleeps` tells how often a process has gone to sleep; None while it does not sleep."""

    def __init__(self, sleeps: Callable[[int], int | None]) -> None:
        self.stalled_ms = 0
        """For how long one process was seen to wait for the same block: the longest."""
        self.event = ""
        """What that one waits for, as PostgreSQL calls it, in small letters."""
        self._sleeps = sleeps
        self._since: dict[tuple[int, str, int], int] = {}

    def noted(self, now_ms: int, waits: Mapping[int, str]) -> None:
        """One look: wait event by process."""
        since: dict[tuple[int, str, int], int] = {}
        for pid, event in waits.items():
            count = self._sleeps(pid)
            if count is not None:
                since[pid, event, count] = self._since.get((pid, event, count), now_ms)
        self._since = since
        first = min(since.items(), key=lambda one: one[1], default=None)
        self.event, self.stalled_ms = ("", 0) if first is None else (first[0][1], now_ms - first[1])
