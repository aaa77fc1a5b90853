"""Open files of faultfs: a descriptor of the backing file, which file it is, and how often that file is open."""

from __future__ import annotations

import os
import threading
from collections import Counter
from typing import NamedTuple

from failover.drill.faultfs.overlay import Key


class Handle(NamedTuple):
    """`path`: as it was opened, with a leading slash; for patterns and the log."""

    fd: int
    key: Key
    path: str


class Handles:
    """By the number that FUSE knows, which is the descriptor's."""

    def __init__(self) -> None:
        self._open: dict[int, Handle] = {}
        self._counts: Counter[Key] = Counter()
        self._lock = threading.Lock()

    def add(self, fd: int, path: str) -> Handle:
        """A file was opened."""
        found = os.fstat(fd)
        handle = Handle(fd, (found.st_dev, found.st_ino), path)
        with self._lock:
            self._open[fd] = handle
            self._counts[handle.key] += 1
        return handle

    def get(self, fd: int) -> Handle:
        """The open file."""
        return self._open[fd]

    def remove(self, fd: int) -> tuple[Handle, bool]:
        """It is to be closed; True when nobody else has the file open."""
        with self._lock:
            handle = self._open.pop(fd)
            self._counts[handle.key] -= 1
            is_last = self._counts[handle.key] == 0
            if is_last:
                del self._counts[handle.key]
        return handle, is_last

    def is_open(self, key: Key) -> bool:
        """Somebody has this file open."""
        return self._counts[key] > 0
