"""Watches processes that are not children through pidfds: their end is an event, not something to poll for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import NamedTuple


class _Watched(NamedTuple):
    descriptor: int
    what: str


class ProcessWatch:
    """`gone(pid, what)` is called on the event loop when a watched process ends."""

    def __init__(self, gone: Callable[[int, str], None]) -> None:
        self._gone = gone
        self._watched: dict[int, _Watched] = {}

    def watch(self, wanted: dict[int, str]) -> None:
        """From now on exactly these pids, each with what it is. One that has ended already is told at once."""
        for pid in set(self._watched) - set(wanted):
            self._drop(pid)
        for pid in set(wanted) - set(self._watched):
            try:
                descriptor = os.pidfd_open(pid)
            except OSError:
                asyncio.get_running_loop().call_soon(self._gone, pid, wanted[pid])
                continue
            self._watched[pid] = _Watched(descriptor, wanted[pid])
            asyncio.get_running_loop().add_reader(descriptor, self._ended, pid)

    def close(self) -> None:
        """Watch nothing more."""
        self.watch({})

    def _ended(self, pid: int) -> None:
        what = self._watched[pid].what
        self._drop(pid)
        self._gone(pid, what)

    def _drop(self, pid: int) -> None:
        watched = self._watched.pop(pid)
        asyncio.get_running_loop().remove_reader(watched.descriptor)
        os.close(watched.descriptor)
