"""A PostgreSQL with nothing around it, in a directory that a test chooses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from replication.installation import Installation, find_installation
from tests.acceptance.killing import kill_postmaster
from tests.ports import free_port

_READY_S = 60.0


class Bare:
    """`data`: an empty directory, below one that every account may enter."""

    def __init__(self, data: Path, **settings: str) -> None:
        self.installation: Installation = find_installation(None)
        self.data = data
        self.port = free_port()
        self._settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            "restart_after_crash": "off",
            "logging_collector": "off",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def initdb(self) -> None:
        """An empty cluster with checksums."""
        self.installation.own(self.data)
        self.data.chmod(0o700)
        self.tool("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "--data-checksums")

    def tool(self, name: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs to its end: what it said."""
        done = subprocess.run(
            self.installation.command(name, *arguments), capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    async def start(self) -> None:
        """Until it takes connections."""
        flags = [word for key, value in self._settings.items() for word in ("-c", f"{key}={value}")]
        await asyncio.to_thread(self._launch, self.installation.command("postgres", "-D", str(self.data), *flags))
        until = time.monotonic() + _READY_S
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError):
                await (await self.connect()).close()
                return
            assert self._process is not None
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < until, self.log()
            await asyncio.sleep(0.05)

    async def connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(host="127.0.0.1", port=self.port, user="postgres", database="postgres", timeout=5)

    def kill(self) -> None:
        """SIGKILL of all its processes."""
        assert self._process is not None
        kill_postmaster(self._process.pid)
        self._process.wait(30)

    def stop(self) -> None:
        """A clean stop."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGINT)
            self._process.wait(60)

    def log(self) -> str:
        return self._log_file.read_text(encoding="utf-8", errors="replace")[-4_000:]

    @property
    def _log_file(self) -> Path:
        return self.data.with_name(f"{self.data.name}.postgres.log")

    def _launch(self, command: list[str]) -> None:
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


@asynccontextmanager
async def postgres_in(data: Path, **settings: str) -> AsyncIterator[Bare]:
    """A running PostgreSQL with its data in this empty directory; it is gone afterwards, dead or alive."""
    server = Bare(data, **settings)
    await asyncio.to_thread(server.initdb)
    try:
        await server.start()
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            await asyncio.to_thread(server.kill)
