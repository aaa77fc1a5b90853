"""The children of `locum up`: started, restarted when they die, stopped in order.

Each has a session of its own, so that the terminal's Ctrl-C reaches `up` alone, and outlives an `up` that is killed:
the service goes on without its supervisor, and the next `up` ends what is left (compose/adopt.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO

import structlog

import compose
from compose.adopt import child_mark
from compose.errors import ChildFailed
from replication.proc import ProcessId, identify

_log = structlog.get_logger()

_STEADY_S = 10.0
_RESTART_DELAY_S_MAX = 2.0
"""However often it died: with both agents away nobody brings the nodes back, and an outage must not be ours."""
_AGENT_PAUSE_S = 0.3
_DEATHS_BEFORE_READY_MAX = 4
_LOG_BYTES_MAX = 32 * 1024 * 1024


class Child:
    """One process of the cluster. `name` is `server`, `controller`, `agent-NODE` or `proxies`; `died` is told name and exit code."""

    def __init__(self, name: str, settings: Path, log_file: Path, died: Callable[[str, int], None]) -> None:
        self.name = name
        self.process: ProcessId | None = None
        self.must_stay_up = False
        """Set once bookings work: from then on it is restarted for ever."""
        # The death of an agent may be that of its node: whoever takes over needs this machine's processors first.
        self._pause_s = _AGENT_PAUSE_S if name.startswith("agent-") else 0.0
        self._settings = settings
        self._log_file = log_file
        self._died = died
        self._handle: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    async def keep_running(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Start it, and again whenever it dies, until `stop`; `changed` is awaited after every start.

        Raises ChildFailed when it dies again and again before `must_stay_up`.
        """
        deaths = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._run_once(changed)
            if self._stopping.is_set():
                return
            deaths = 1 if time.monotonic() - began > _STEADY_S else deaths + 1
            _log.warning("up.child_died", child=self.name, code=code, deaths=deaths)
            self._died(self.name, code)
            if deaths >= _DEATHS_BEFORE_READY_MAX and not self.must_stay_up:
                raise ChildFailed(f"the {self.name} does not start: {await asyncio.to_thread(self._last_words)}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), max(self._pause_s, restart_delay_s(deaths)))

    async def stop(self, *, patience_ms: int) -> bool:
        """SIGTERM, and SIGKILL after `patience_ms`. True when it ended by itself."""
        self._stopping.set()
        handle = self._handle
        if handle is None or handle.returncode is not None:
            return True
        with contextlib.suppress(ProcessLookupError):
            handle.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(handle.wait(), patience_ms / 1000)
        except TimeoutError:
            _log.warning("up.child_killed", child=self.name, patience_ms=patience_ms)
            with contextlib.suppress(ProcessLookupError):
                handle.kill()
            await handle.wait()
            return False
        return True

    async def _run_once(self, changed: Callable[[], Awaitable[None]]) -> int:
        with await asyncio.to_thread(open_log, self._log_file) as log:
            handle = await asyncio.create_subprocess_exec(
                *child_command(self.name, self._settings),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=child_environment(),
            )
        self._handle = handle
        self.process = identify(handle.pid)
        _log.info("up.child_started", child=self.name, pid=handle.pid)
        await changed()
        return await handle.wait()

    def _last_words(self) -> str:
        with self._log_file.open("rb") as file:
            file.seek(max(0, self._log_file.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'it said nothing'} (see {self._log_file})"


def restart_delay_s(deaths: int) -> float:
    """Pause before a restart: none after the first death, then 0.25 s, doubled each time, at most 2 s."""
    return 0.0 if deaths <= 1 else min(_RESTART_DELAY_S_MAX, 0.25 * 2.0 ** min(deaths - 2, 16))


def child_command(name: str, settings: Path) -> list[str]:
    """The argument vector of a child: this Python, this installation of Locum, one settings file."""
    return [sys.executable, "-P", "-m", "compose", *child_mark(name, settings)]


def child_environment() -> dict[str, str]:
    """The own environment, with the place from which this very Locum was imported first on the path."""
    here = str(Path(compose.__file__).resolve().parent.parent)
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != here]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([here, *others])}


def open_log(path: Path) -> BinaryIO:
    """A log to append to, mode 0600; one that has grown past 32 MB is put aside first."""
    if path.exists() and path.stat().st_size > _LOG_BYTES_MAX:
        path.replace(path.with_suffix(".log.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "ab")
