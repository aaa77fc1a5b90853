"""A cluster of a drill's own: `locum up` as a subprocess, on free ports, of which nothing is left afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from failover.drill.cluster import READY_S, Cluster
from failover.drill.errors import ClusterAway
from failover.drill.faultfs.launch import unmount
from failover.drill.faults.processes import started

_STOPPED_S = 60.0
_LOOK_EVERY_S = 0.05
_PORTS_FROM, _PORTS_TO, _PORTS_USED = 18_000, 31_000, 45


class ThrowAway(Cluster):
    """One cluster below `place`, which ends with the drill. `launched` is told the pid of its `locum up`. Raises ClusterAway."""

    def __init__(self, place: Path, flags: tuple[str, ...], launched: Callable[[int], None]) -> None:
        super().__init__(place / "ready.json")
        self.data = place / "data"
        self._flags = flags
        self._launched = launched
        self._output = place / "up.log"
        self._port = _free_port()
        self._up: subprocess.Popen[bytes] | None = None

    @property
    def up_pid(self) -> int | None:
        """Of its `locum up`, once that runs."""
        return None if self._up is None else self._up.pid

    async def start(self, *, wait: bool = True) -> None:
        """`locum up`, until bookings work; `wait` until it is healthy."""
        command = [sys.executable, "-P", "-m", "compose", "up", "--data", str(self.data), "--port", str(self._port)]
        await asyncio.to_thread(self._launch, [*command, "--ready-file", str(self._ready_file), *self._flags])
        if self.up_pid is not None:
            self._launched(self.up_pid)
        until_s = time.monotonic() + READY_S
        while not self._ready_file.exists():
            if self._up is not None and self._up.poll() is not None:
                raise ClusterAway(f"`locum up` ended: {self.last_words()}")
            if time.monotonic() > until_s:
                raise ClusterAway(f"bookings do not work after {READY_S:.0f} s: {self.last_words()}")
            await asyncio.sleep(_LOOK_EVERY_S)
        await super().start(wait=wait)

    async def stop(self) -> None:
        """Ctrl-C, and whatever is needed after that: nothing of it is left."""
        await super().stop()
        await asyncio.to_thread(self._end)

    def last_words(self) -> str:
        """Of `locum up`."""
        with contextlib.suppress(OSError):
            return " ".join(self._output.read_text(encoding="utf-8", errors="replace").split()[-60:])
        return "it said nothing"

    def _launch(self, command: list[str]) -> None:
        self.data.parent.mkdir(parents=True, exist_ok=True)
        with self._output.open("ab") as output:
            self._up = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def _end(self) -> None:
        if self._up is None:
            return
        if self._up.poll() is None:
            self._up.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._up.wait(_STOPPED_S)
        if self._up.poll() is None:
            self._up.kill()
            self._up.wait(_STOPPED_S)
            end_processes(self.data)
        for node in ("a", "b"):
            unmount(self.data / "nodes" / node / "pgdata")


def end_processes(data: Path) -> None:
    """`locum up` on this directory did not end by itself: its children and their PostgreSQL, by the pids that it wrote down."""
    pids = []
    for node in ("a", "b"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            pids.append(int((data / "nodes" / node / "pgdata/postmaster.pid").read_text().split()[0]))
    with contextlib.suppress(OSError, msgspec.DecodeError):
        recorded = msgspec.json.decode((data / "pids.json").read_bytes(), type=dict[str, dict[str, Any]])
        pids += [int(one["pid"]) for one in recorded.values() if started(int(one["pid"])) == int(one["started"])]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _free_port() -> int:
    """A base port with room above it, outside the range of outgoing connections."""
    random = Random()  # noqa: S311  any will do
    while True:
        base = random.randrange(_PORTS_FROM, _PORTS_TO)
        if all(_is_free(base + offset) for offset in range(_PORTS_USED)):
            return base


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
