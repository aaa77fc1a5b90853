"""A whole Locum as an outsider runs it: `locum up` as a subprocess, its HTTP, its files, and SQL.

Everything that a test started is ended by pid when the `Cluster` closes, postmasters included.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec

from compose import ready
from compose.adopt import leftovers, running_postmaster
from compose.layout import NODES, Layout, Ports
from compose.proc import end
from compose.processes import child_environment
from compose.ready import Ready
from failover.drill.faultfs.launch import unmount
from tests.acceptance.killing import kill_postmaster

READY_S = 90.0
HEALTHY_S = 90.0
STOPPED_S = 60.0


class Cluster:
    """One `locum up` on one data directory; it can be stopped, killed and started again on the same data."""

    def __init__(self, root: Path, *flags: str) -> None:
        self.layout = Layout(root / "data")
        self.ports = Ports(free_base_port())
        self.ready_file = root / "ready.json"
        self.output = root / "up.out"
        self._flags = flags
        self._up: subprocess.Popen[bytes] | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def ready(self) -> Ready:
        """The ready file as it is now."""
        return ready.read(self.ready_file)

    @property
    def session(self) -> aiohttp.ClientSession:
        """One HTTP client for the whole test."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30))
        return self._session

    async def start(self) -> None:
        """`locum up`, until the ready file says that bookings work."""
        command = [sys.executable, "-P", "-m", "compose", "up", "--data", str(self.layout.root)]
        command += ["--port", str(self.ports.base), "--ready-file", str(self.ready_file), *self._flags]
        await asyncio.to_thread(self._launch, command)
        until = time.monotonic() + READY_S
        while not self._is_ready():
            assert self._up is not None
            assert self._up.poll() is None, f"`locum up` ended with {self._up.returncode}: {self.tell()}"
            assert time.monotonic() < until, f"bookings did not work within {READY_S} s: {self.tell()}"
            await asyncio.sleep(0.02)

    async def interrupt(self) -> int:
        """Ctrl-C, and the exit code of `up`."""
        assert self._up is not None
        self._up.send_signal(signal.SIGINT)
        return await asyncio.to_thread(self._up.wait, STOPPED_S)

    async def kill_up(self) -> None:
        """SIGKILL `up` alone: its children go on."""
        assert self._up is not None
        self._up.kill()
        await asyncio.to_thread(self._up.wait, STOPPED_S)
        self.ready_file.unlink()

    async def crash(self) -> None:
        """SIGKILL of `up`, of all its children and of both PostgreSQL nodes: the power is gone. `start` brings it back."""
        await asyncio.to_thread(self._end)
        self.ready_file.unlink()

    async def view(self) -> dict[str, Any]:
        """GET /v1/cluster."""
        async with self.session.get(f"{self.ports.url(self.ports.controller)}/v1/cluster") as answer:
            answer.raise_for_status()  # 503 while a controller that has just started waits for the leader's lease
            return msgspec.json.decode(await answer.read(), type=dict[str, Any])

    async def wait_until(self, done: Callable[[dict[str, Any]], bool], deadline_s: float = HEALTHY_S) -> dict[str, Any]:
        """Poll /v1/cluster until `done(view)`; fails with the last view and the logs."""
        until, last = time.monotonic() + deadline_s, None
        while time.monotonic() < until:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                last = await self.view()
                if done(last):
                    return last
            await asyncio.sleep(0.05)
        raise AssertionError(f"not within {deadline_s} s; last seen {last}\n{self.tell()}")

    async def wait_healthy(self, deadline_s: float = HEALTHY_S) -> dict[str, Any]:
        """Until a standby is promotable again."""
        return await self.wait_until(lambda view: view["phase"] == "healthy", deadline_s)

    async def post(self, path: str, body: dict[str, Any], *, token: str | None = None) -> tuple[int, dict[str, Any]]:
        """POST to the controller with its own token, or the one given."""
        bearer = token or self.layout.token_file.read_text(encoding="utf-8").strip()
        url = self.ports.url(self.ports.controller) + path
        async with self.session.post(url, json=body, headers={"Authorization": f"Bearer {bearer}"}) as answer:
            return answer.status, msgspec.json.decode(await answer.read(), type=dict[str, Any])

    async def incidents(self) -> list[dict[str, Any]]:
        """GET /v1/incidents, each one whole, newest last."""
        url = self.ports.url(self.ports.controller) + "/v1/incidents"
        async with self.session.get(url) as answer:
            found = msgspec.json.decode(await answer.read())
        listed = found["incidents"] if isinstance(found, dict) else found
        whole = []
        for item in listed:
            async with self.session.get(f"{url}/{item['id']}") as answer:
                whole.append(msgspec.json.decode(await answer.read()))
        return whole

    async def closed_incident(self, deadline_s: float = 30.0) -> dict[str, Any]:
        """The newest incident, once it is closed."""
        until = time.monotonic() + deadline_s
        while not (found := await self.incidents()) or found[-1]["closed_at"] is None:
            assert time.monotonic() < until, f"not closed: {found[-1:]}"
            await asyncio.sleep(0.05)
        return found[-1]

    @asynccontextmanager
    async def sql(self, node: str) -> AsyncIterator[asyncpg.Connection]:
        """A superuser's connection to the booking database of one node."""
        connection = await asyncpg.connect(self.ready.nodes[node].dsn, timeout=10)
        try:
            yield connection
        finally:
            await connection.close()

    def postmaster(self, node: str) -> int:
        """Pid of the postmaster that runs on a node."""
        running = running_postmaster(self.layout.pgdata(node))
        assert running is not None, f"no PostgreSQL runs on node {node}"
        return running[0]

    def kill_postgres(self, node: str) -> None:
        """SIGKILL a node's postmaster with its children."""
        kill_postmaster(self.postmaster(node))

    def kill_agent(self, node: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a node's agent; returns its pid."""
        pid = self.ready.pids.agents[node]
        assert pid is not None
        os.kill(pid, number)
        return pid

    def tell(self) -> str:
        """The last lines of every log, for a failure's text."""
        files = [self.output, *sorted(self.layout.logs.glob("*.log"))]
        return "\n".join(f"--- {file.name}\n{_tail(file)}" for file in files if file.exists())

    def tell_errors(self) -> str:
        """The last errors in the logs, with their tracebacks."""
        lines = [line for file in sorted(self.layout.logs.glob("*.log")) for line in _lines(file)]
        return "\n".join(line for line in lines if '"level": "error"' in line or "Traceback" in line)[-8000:]

    async def close(self) -> None:
        """End everything by pid, whatever state it is in."""
        if self._session is not None:
            await self._session.close()
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        if self._up is not None and self._up.poll() is None:
            self._up.kill()
            self._up.wait(STOPPED_S)
        found = self._postmasters()  # while their disks are there
        for _name, process in leftovers(self.layout):
            end(process, patience_ms=0)
        for pid in found | self._postmasters():
            with contextlib.suppress(ProcessLookupError):
                kill_postmaster(pid)
        for node in NODES:
            unmount(self.layout.pgdata(node))

    def _postmasters(self) -> set[int]:
        places = [place(node) for node in NODES for place in (self.layout.pgdata, self.layout.backing)]
        return {running[0] for place in places if (running := running_postmaster(place)) is not None}

    def _launch(self, command: list[str]) -> None:
        with self.output.open("ab") as out:
            self._up = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=child_environment(),
                start_new_session=True,
            )

    def _is_ready(self) -> bool:
        try:
            return bool(self.ready.server)
        except OSError:
            return False


@asynccontextmanager
async def running(root: Path, *flags: str) -> AsyncIterator[Cluster]:
    """A cluster that is healthy, and gone when the block ends."""
    cluster = Cluster(root, *flags)
    try:
        await cluster.start()
        await cluster.wait_healthy()
        yield cluster
    finally:
        await cluster.close()


def free_base_port() -> int:
    """A base port of which every port of `locum up` is free now, those of its links included."""
    for _attempt in range(200):
        base = random.randrange(20_000, 32_000)
        with contextlib.ExitStack() as held:
            try:
                for port in Ports(base, proxied=True).named():
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
    raise AssertionError("no free range of ports was found")


def _tail(file: Path, lines: int = 25) -> str:
    return "\n".join(_lines(file)[-lines:])


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").splitlines()
