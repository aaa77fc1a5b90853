"""Kill every process of a node at once, without waiting for any write (DESIGN section 4, Fence)."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

import msgspec

from replication.errors import FenceIncomplete
from replication.proc import ProcessId, all_stats, read_stat, servers_of

FENCE_DEADLINE_S = 2.0


class Fenced(msgspec.Struct, frozen=True):
    """How many processes were killed, and how long it took until the last was gone."""

    killed: int
    took_ms: float


def fence(postmaster: ProcessId | None, directory: str, *, deadline_s: float = FENCE_DEADLINE_S) -> Fenced:
    """SIGSTOP the postmaster, SIGKILL it with all its descendants, and wait until none is left.

    Every child has a process group of its own and a killed one may stay a zombie, so neither killpg nor kill(pid, 0)
    would do: pidfds tell. Children whose postmaster died before them are known by their working directory, which is
    the data directory (`directory`, an absolute path without links). Blocks: run it in a thread. Raises
    FenceIncomplete when something is still there at the deadline (stuck in the kernel on a stalled disk, as a rule).
    """
    began = time.monotonic()
    end = began + deadline_s
    watched: dict[int, int] = {}
    killed = 0
    try:
        if postmaster is not None:
            _stop(postmaster)
        while True:
            fresh = [pid for pid in _members(postmaster, directory) if pid not in watched]
            for pid in fresh:
                descriptor = _open(pid)
                if descriptor is not None:
                    watched[pid] = descriptor
                    killed += _kill(descriptor)
            _wait(watched, end, directory)
            if not fresh:
                return Fenced(killed=killed, took_ms=(time.monotonic() - began) * 1000)
    finally:
        for descriptor in watched.values():
            os.close(descriptor)


def _members(postmaster: ProcessId | None, directory: str) -> list[int]:
    """Live descendants of the postmaster and live processes at work in the data directory."""
    stats = all_stats()
    living = {pid for pid, stat in stats.items() if not stat.dead}
    members = set(servers_of(directory, list(living)))
    if postmaster is not None and postmaster.pid in living and stats[postmaster.pid].started == postmaster.started:
        members.add(postmaster.pid)
    grew = True
    while grew:
        before = len(members)
        members |= {pid for pid in living if stats[pid].parent in members}
        grew = len(members) > before
    return sorted(members - {os.getpid()})


def _stop(postmaster: ProcessId) -> None:
    descriptor = _open(postmaster.pid)
    if descriptor is None:
        return
    try:
        stat = read_stat(postmaster.pid)
        if stat is not None and stat.started == postmaster.started:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
    finally:
        os.close(descriptor)


def _open(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _kill(descriptor: int) -> int:
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


def _wait(watched: dict[int, int], end: float, directory: str) -> None:
    poller = select.poll()
    waiting = {descriptor: pid for pid, descriptor in watched.items()}
    for descriptor in waiting:
        poller.register(descriptor, select.POLLIN)
    while waiting:
        left = end - time.monotonic()
        ready = poller.poll(max(0.0, left) * 1000)
        for descriptor, _ in ready:
            poller.unregister(descriptor)
            del waiting[descriptor]
        if not ready and left <= 0:
            pids = ", ".join(str(pid) for pid in sorted(waiting.values()))
            raise FenceIncomplete(
                f"processes {pids} of {directory} were killed but are not gone: the kernel holds them, most likely on "
                "a disk that does not answer; they can run no more code of theirs"
            )
