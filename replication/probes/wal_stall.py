"""A disk that takes no WAL any more: somebody waits for it to, and WAL does not move. Pure.

The disk probe writes a file of its own, and may find the volume of pg_wal well, or another queue of the same disk. But PostgreSQL
says who waits for a write or an fsync of WAL (wait events WalWrite and WalSync, src/backend/utils/activity/wait_event_names.txt).
"""

from __future__ import annotations

WAL_STALLED_MS = 3_000
"""An fsync that takes so long is none."""


class WalStall:
    """Of one start of PostgreSQL. `stalled_ms`: for how long the same process was seen to wait, while nothing was flushed."""

    def __init__(self) -> None:
        self.stalled_ms = 0
        self._waiting: frozenset[int] = frozenset()
        self._flushed: int | None = None
        self._since_ms = 0

    def noted(self, now_ms: int, waiting: frozenset[int], flushed: int | None) -> None:
        """One look: the processes that wait, and how far WAL is on the disk."""
        still = self._waiting & waiting if flushed == self._flushed else frozenset()
        if still:
            self._waiting, self.stalled_ms = still, now_ms - self._since_ms
        else:
            self._waiting, self._flushed, self._since_ms, self.stalled_ms = waiting, flushed, now_ms, 0
