"""What /proc tells of processes: identity that survives the reuse of pids, descent, working directory (proc(5))."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import msgspec


class ProcessId(msgspec.Struct, frozen=True):
    """A pid with its start time in clock ticks since boot: no other process ever has both."""

    pid: int
    started: int

    def __str__(self) -> str:
        return f"{self.pid}:{self.started}"


def parse_process_id(text: str) -> ProcessId:
    """`4711:123456` as a ProcessId. Raises ValueError."""
    pid, _, started = text.partition(":")
    return ProcessId(int(pid), int(started))


class ProcessStat(msgspec.Struct, frozen=True):
    """The fields of /proc/PID/stat that matter here."""

    parent: int
    started: int
    state: str

    @property
    def dead(self) -> bool:
        """Exited, but perhaps not reaped yet."""
        return self.state in "ZX"


def read_stat(pid: int) -> ProcessStat | None:
    """None when there is no such process."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY)  # a fence reads hundreds: no buffers, no Path
        try:
            text = os.read(descriptor, 1024)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split(None, 20)
    return ProcessStat(parent=int(fields[1]), started=int(fields[19]), state=fields[0].decode())


def sleeps(pid: int) -> int | None:
    """How often it has gone to sleep (proc_pid_status(5), voluntary_ctxt_switches); None while it does not sleep: it runs or waits for a
    processor, was stopped, or is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    found = dict(line.split(b":", 1) for line in text.splitlines() if b":" in line)
    is_asleep = found.get(b"State", b"").split()[:1] in ([b"S"], [b"D"])
    return int(found[b"voluntary_ctxt_switches"]) if is_asleep else None


def is_running(pid: int) -> bool:
    """It is there, and nobody has stopped it (proc(5): states T and t): what it waits for, it waits for."""
    stat = read_stat(pid)
    return stat is not None and not stat.dead and stat.state not in "Tt"


def identify(pid: int) -> ProcessId | None:
    """The identity of a process that is alive; None when it is gone or a zombie."""
    found = read_stat(pid)
    return None if found is None or found.dead else ProcessId(pid, found.started)


def alive(process: ProcessId) -> bool:
    """Whether exactly this process still lives."""
    return identify(process.pid) == process


def all_stats() -> dict[int, ProcessStat]:
    """Every process that can be seen now."""
    found: dict[int, ProcessStat] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            stat = read_stat(int(entry.name))
            if stat is not None:
                found[int(entry.name)] = stat
    return found


def servers_of(directory: str, pids: list[int]) -> list[int]:
    """The PostgreSQL processes among `pids` that work in this data directory (postgres changes to it at its start).

    Links are read, never followed: a stalled disk cannot hold this up.
    """
    return [pid for pid in pids if _link(pid, "cwd") == directory and os.path.basename(_link(pid, "exe")) == "postgres"]


def find_postmaster(directory: str) -> ProcessId | None:
    """The live postmaster of a data directory: it works there, and its parent does not."""
    stats = {pid: stat for pid, stat in all_stats().items() if not stat.dead}
    here = set(servers_of(directory, list(stats)))
    for pid in sorted(here):
        if stats[pid].parent not in here:
            return ProcessId(pid, stats[pid].started)
    return None


def children_titled(parent: ProcessId, word: str) -> list[int]:
    """Children of a postmaster whose process title has this word (`startup`, `walreceiver`): set_ps_display."""
    try:
        listed = Path("/proc", str(parent.pid), "task", str(parent.pid), "children").read_text(encoding="ascii").split()
        children = [int(pid) for pid in listed]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        children = [pid for pid, stat in all_stats().items() if stat.parent == parent.pid]
    return [pid for pid in children if word in _title(pid).split()]


def signal_titled(pid: int, word: str, number: signal.Signals) -> None:
    """Signal this process if its title has the word: a pid that was given to another process meanwhile is let be."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if word in _title(pid).split():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


def _title(pid: int) -> str:
    try:
        return Path("/proc", str(pid), "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _link(pid: int, name: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/{name}").removesuffix(" (deleted)")
    except OSError:
        return ""
