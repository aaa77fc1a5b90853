"""What an `up` that was killed left running: its controller, server and agents are ended, never a postmaster.

The new agents adopt the postmasters that still run, so bookings pause but PostgreSQL does not restart.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from compose.errors import UpRefused
from compose.layout import NODES, WORKERS_MAX, Layout, worker_names
from compose.proc import command_lines, end
from replication.proc import ProcessId, alive, identify
from replication.wire.secrets import write_private

DISKS = tuple(f"faultfs-{node}" for node in NODES)
PROCESSES = ("controller", *worker_names(WORKERS_MAX), *(f"agent-{node}" for node in NODES), *DISKS, "proxies")
"""In the order in which leftovers are ended: nobody decides or books while the agents change."""

_PATIENCE_MS = {"controller": 3_000, "server": 5_000, "proxies": 3_000, "faultfs": 10_000}
_AGENT_PATIENCE_MS = 30_000


def record(layout: Layout, running: dict[str, ProcessId]) -> None:
    """Write down the pid and start time of every child, right after each start."""
    write_private(layout.pids, msgspec.json.encode(running).decode() + "\n")


def leftovers(layout: Layout) -> list[tuple[str, ProcessId]]:
    """Processes of an earlier `up` on this directory that still run, in the order in which to end them.

    Found by the record, and by their argument vector (which names the settings file of this very directory): an `up`
    that is killed between a start and the record leaves no record.
    """
    recorded = _recorded(layout)
    vectors = command_lines()
    found: list[tuple[str, ProcessId]] = []
    for name in PROCESSES:
        marks = {child_mark(name, layout.settings(name))}
        pids = {pid for pid, vector in vectors.items() if tuple(vector[-3:]) in marks}
        candidates = {process for pid in pids if (process := identify(pid))}
        if (old := recorded.get(name)) is not None and alive(old):
            candidates.add(old)
        found += [(name, process) for process in sorted(candidates, key=lambda process: process.pid)]
    return found


def child_mark(name: str, settings: Path) -> tuple[str, str, str]:
    """The last three arguments of a child's vector: they name it and the data directory that it belongs to."""
    return (name.partition("-")[0], "--config", str(settings))


def end_leftovers(found: list[tuple[str, ProcessId]]) -> None:
    """End them one after the other; an agent by SIGKILL, since SIGTERM would make it stop its PostgreSQL.

    Which it must, when its disk is a faultfs: that ends too. Raises UpRefused when one cannot be ended.
    """
    has_disks = any(name in DISKS for name, _process in found)
    for name, process in found:
        kind = name.partition("-")[0]
        patience_ms = _AGENT_PATIENCE_MS if kind == "agent" and has_disks else _PATIENCE_MS.get(kind, 0)
        try:
            end(process, patience_ms=patience_ms)
        except (TimeoutError, PermissionError) as error:
            raise UpRefused(
                f"the {name} of an earlier `locum up` still runs as process {process.pid} and could not be ended "
                f"({error}); end it and run `locum up` again"
            ) from error


def running_postmaster(pgdata: Path) -> tuple[int, int] | None:
    """Pid and port of the postmaster that runs on a data directory (lines 1 and 4 of postmaster.pid), or None."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = (pgdata / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        pid, port = int(lines[0]), int(lines[3])
        if identify(pid) is not None:
            return pid, port
    return None


def _recorded(layout: Layout) -> dict[str, ProcessId]:
    try:
        return msgspec.json.decode(layout.pids.read_bytes(), type=dict[str, ProcessId])
    except (OSError, msgspec.DecodeError):
        return {}
