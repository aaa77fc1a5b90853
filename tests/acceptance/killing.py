"""SIGKILL for a postmaster and everything below it, as a crash of the machine's PostgreSQL would be."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def kill_postmaster(pid: int) -> int:
    """SIGKILL the postmaster first, then its children; returns how many processes were killed.

    Stopped first, so that no child is born between the look at /proc and the kill.
    """
    os.kill(pid, signal.SIGSTOP)
    family = [pid, *children_of(pid)]
    for member in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    return len(family)


def signal_postmaster(pid: int, number: signal.Signals) -> None:
    """Send a signal to the postmaster first, then to its children."""
    os.kill(pid, number)
    for child in children_of(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)


def children_of(pid: int) -> list[int]:
    """The direct children of a process (proc(5), /proc/PID/stat)."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found
