"""Ending processes by pid and start time: a pid alone may belong to somebody else by now."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

from replication.proc import ProcessId, alive


def end(process: ProcessId, *, patience_ms: int) -> bool:
    """End exactly this process: SIGTERM, and SIGKILL after `patience_ms` (0: SIGKILL at once). Blocks until it is gone.

    Returns False when it was gone already. Raises TimeoutError when not even SIGKILL ended it within 5 s, and
    PermissionError when it belongs to another user.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if not alive(process):
            return False
        if patience_ms:
            _send(descriptor, signal.SIGTERM)
            if _wait(descriptor, patience_ms):
                return True
        _send(descriptor, signal.SIGKILL)
        if not _wait(descriptor, 5_000):
            raise TimeoutError(f"process {process.pid} does not end, not even by SIGKILL; its disk may hang")
        return True
    finally:
        os.close(descriptor)


def command_lines() -> dict[int, list[str]]:
    """The argument vector of every process that can be read now, by pid."""
    vectors: dict[int, list[str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                raw = (entry / "cmdline").read_bytes()
                vectors[int(entry.name)] = raw.decode(errors="replace").rstrip("\0").split("\0")
    return vectors


def _send(descriptor: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, number)


def _wait(descriptor: int, deadline_ms: int) -> bool:
    return bool(select.select([descriptor], [], [], deadline_ms / 1000)[0])
