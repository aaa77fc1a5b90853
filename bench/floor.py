"""The floor: how fast PostgreSQL alone can go on after its primary was killed.

A bare primary with a synchronous standby under a stream of single-row inserts. The primary's processes are killed with
SIGKILL, the standby is promoted at the same moment, and the clock stops when it has acknowledged its first write.
Nothing has to be detected, decided, fenced or recorded: no failover of the same PostgreSQL can be faster. Half of that
time goes into the copy of one WAL segment, so it is measured with PostgreSQL's own size (16 MB), which is the reference,
and with Locum's (1 MB), which says how much of a gap is Locum's own doing.

In one run of three it takes about wal_retrieve_retry_interval longer: the order to promote comes while the standby tries
to reach its dead primary again, wakes it from that, and it then sleeps out the rest of the interval before it looks for
the order (src/backend/access/transam/xlogrecovery.c, WaitForWALToBecomeAvailable).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import asyncpg

from replication.installation import Installation
from tests.acceptance.killing import kill_postmaster
from tests.ports import free_port

STOCK_SEGMENT_MB = 16
_READY_S = 30.0
_WARM_UP_S = 1.0
_PROMOTED_S = 30.0
_SETTINGS = {
    "fsync": "on",
    "wal_level": "replica",
    "hot_standby": "on",
    "max_wal_senders": "10",
    "wal_retrieve_retry_interval": "100ms",
    "shared_buffers": "128MB",
    "max_connections": "100",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
}


async def measure_floor(
    installation: Installation,
    place: Path,
    *,
    segment_mb: int = STOCK_SEGMENT_MB,
    disks: tuple[Path, Path] | None = None,
) -> float:
    """Milliseconds from SIGKILL of the primary to the first acknowledged write on the promoted standby. `disks`: where the two
    lie, instead of below `place`."""
    one, other = disks or (place, place)
    primary, standby = _Bare(installation, one / "primary"), _Bare(installation, other / "standby")
    try:
        await asyncio.to_thread(primary.initdb, segment_mb)
        await primary.start({"synchronous_standby_names": "floor"})
        await asyncio.to_thread(standby.copy_from, primary)
        await standby.start({"synchronous_standby_names": ""})
        await _wait_for_sync(primary)
        return await _kill_and_promote(primary, standby)
    finally:
        primary.end()
        standby.end()


async def _kill_and_promote(primary: _Bare, standby: _Bare) -> float:
    writer, promoter = await primary.connect(), await standby.connect()
    await writer.execute("CREATE TABLE written (n int PRIMARY KEY)")
    writing = asyncio.create_task(_write_until_it_breaks(writer))
    await asyncio.sleep(_WARM_UP_S)
    began = time.monotonic()
    await asyncio.to_thread(kill_postmaster, primary.pid)
    await promoter.execute("SELECT pg_promote(wait => false)")
    acknowledged = await _first_write(promoter, writing, began)
    await promoter.close()
    writer.terminate()
    return (acknowledged - began) * 1000


async def _first_write(connection: asyncpg.Connection, writing: asyncio.Task[int], began: float) -> float:
    last = await writing
    while time.monotonic() < began + _PROMOTED_S:
        try:
            await connection.execute("INSERT INTO written VALUES ($1)", last + 1_000_000)
        except asyncpg.ReadOnlySQLTransactionError:
            await asyncio.sleep(0.001)
        else:
            now = time.monotonic()
            assert await connection.fetchval("SELECT count(*) FROM written WHERE n <= $1", last) == last
            return now
    raise AssertionError(f"the standby took no write within {_PROMOTED_S} s")


async def _write_until_it_breaks(connection: asyncpg.Connection) -> int:
    """Insert 1, 2, 3, … one at a time; returns the last number that was acknowledged."""
    number = 0
    with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
        while True:
            await connection.execute("INSERT INTO written VALUES ($1)", number + 1)
            number += 1
            await asyncio.sleep(0.001)
    return number


async def _wait_for_sync(primary: _Bare) -> None:
    connection = await primary.connect()
    try:
        until = time.monotonic() + _READY_S
        while await connection.fetchval("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") != 1:
            assert time.monotonic() < until, "the standby does not stream"
            await asyncio.sleep(0.02)
    finally:
        await connection.close()


class _Bare:
    """One PostgreSQL with nothing around it."""

    def __init__(self, installation: Installation, data: Path) -> None:
        self._installation = installation
        self._data = data
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def initdb(self, segment_mb: int) -> None:
        self._data.parent.mkdir(parents=True, exist_ok=True)
        self._tool(
            "initdb",
            "-D",
            str(self._data),
            "-U",
            "postgres",
            "-A",
            "trust",
            "--data-checksums",
            "-N",
            f"--wal-segsize={segment_mb}",
        )

    def copy_from(self, primary: _Bare) -> None:
        source = f"host=127.0.0.1 port={primary.port} user=postgres application_name=floor"
        self._tool("pg_basebackup", "-D", str(self._data), "-d", source, "-R", "-c", "fast", "-X", "stream")

    async def start(self, extra: dict[str, str]) -> None:
        values = {**_SETTINGS, **extra, "port": str(self.port)}
        flags = [word for key, value in values.items() for word in ("-c", f"{key}={value}")]
        command = self._installation.command("postgres", "-D", str(self._data), *flags)
        await asyncio.to_thread(self._launch, command)
        until = time.monotonic() + _READY_S
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError):
                await (await self.connect()).close()
                return
            assert time.monotonic() < until, f"PostgreSQL in {self._data} does not start"
            await asyncio.sleep(0.05)

    async def connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(host="127.0.0.1", port=self.port, user="postgres", database="postgres", timeout=5)

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGQUIT)
            self._process.wait(30)

    def _launch(self, command: list[str]) -> None:
        with (self._data.parent / f"{self._data.name}.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def _tool(self, tool: str, *arguments: str) -> None:
        command = self._installation.command(tool, *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
