"""A throw-away cluster of a drill: `locum up` as a subprocess, looked at over HTTP, SQL and the ready file, as an outsider would."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import asyncpg
import msgspec

from failover.drill.checker import Rows
from failover.drill.errors import ClusterAway, Unreadable
from failover.drill.faultfs.client import FaultFsClient
from failover.drill.faultfs.launch import unmount
from failover.drill.history import Facts

_READY_S = 90.0
_STOPPED_S = 60.0
_ASK_S = 5.0
_SQL_S = 20.0
_LOOK_EVERY_S = 0.05
_PORTS_FROM, _PORTS_TO, _PORTS_USED = 18_000, 31_000, 45
_ROWS = """
SELECT id::text AS id, status, extract(epoch FROM lower(during))::bigint AS start_s,
       extract(epoch FROM upper(during))::bigint AS end_s, practitioner_id, location_id, patient_id, version,
       left(encode(sha256(convert_to(comment, 'UTF8')), 'hex'), 12) AS comment
FROM appointment
"""
"""The drill's own words: what the server says of itself is what is being checked."""


class Cluster:
    """One cluster below `place`. Raises ClusterAway where it does not answer."""

    def __init__(self, place: Path, flags: tuple[str, ...]) -> None:
        self.data = place / "data"
        self._flags = flags
        self._ready_file = place / "ready.json"
        self._output = place / "up.log"
        self._port = _free_port()
        self._up: subprocess.Popen[bytes] | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def ready(self) -> dict[str, Any]:
        """The ready file as it is now: pids change when a process was started again."""
        try:
            found: dict[str, Any] = msgspec.json.decode(self._ready_file.read_bytes())
        except (OSError, msgspec.DecodeError) as error:
            raise ClusterAway(f"{self._ready_file} cannot be read: {error}; {self.last_words()}") from error
        return found

    async def start(self) -> None:
        """Until it is healthy."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ASK_S))
        command = [sys.executable, "-P", "-m", "compose", "up", "--data", str(self.data), "--port", str(self._port)]
        await asyncio.to_thread(self._launch, [*command, "--ready-file", str(self._ready_file), *self._flags])
        until_s = time.monotonic() + _READY_S
        while not self._ready_file.exists():
            if self._up is not None and self._up.poll() is not None:
                raise ClusterAway(f"`locum up` ended: {self.last_words()}")
            if time.monotonic() > until_s:
                raise ClusterAway(f"bookings do not work after {_READY_S:.0f} s: {self.last_words()}")
            await asyncio.sleep(_LOOK_EVERY_S)
        await self.until(lambda view: view["phase"] == "healthy", _READY_S)

    async def view(self) -> dict[str, Any]:
        """GET /v1/cluster. Raises ClusterAway."""
        found: dict[str, Any] = await self._get("/v1/cluster")
        return found

    async def incidents(self) -> list[dict[str, Any]]:
        """All of them, with their verdicts. Raises ClusterAway."""
        found = await self._get("/v1/incidents")
        listed: list[dict[str, Any]] = found["incidents"] if isinstance(found, dict) else found
        return listed

    async def until(self, done: Callable[[dict[str, Any]], bool], deadline_s: float) -> dict[str, Any]:
        """The first view that is as wanted. A controller that is away is asked again. Raises ClusterAway at the deadline."""
        until_s = time.monotonic() + deadline_s
        view: dict[str, Any] | None = None
        while time.monotonic() < until_s:
            with contextlib.suppress(ClusterAway):
                view = await self.view()
                if done(view):
                    return view
            await asyncio.sleep(_LOOK_EVERY_S)
        shown = "no answer" if view is None else f"phase {view['phase']}, primary {view['primary']}"
        raise ClusterAway(f"not as wanted after {deadline_s:.0f} s: {shown}")

    async def post(self, path: str, body: dict[str, Any]) -> None:
        """An operator's action. Raises ClusterAway when it is refused."""
        await self._post(self.ready["controller"] + path, body)

    async def set_clock(self, node: str, offset_ms: int) -> str:
        """Let the wall clock of a node's agent be wrong by so much; what it believes then. Raises ClusterAway."""
        answer = await self._post(self.ready["nodes"][node]["agent"] + "/v1/clock", {"wall_clock_offset_ms": offset_ms})
        return str(msgspec.json.decode(answer)["now"])

    @asynccontextmanager
    async def sql(self, node: str) -> AsyncIterator[asyncpg.Connection]:
        """A superuser's connection to a node. Raises ClusterAway."""
        try:
            connection = await asyncpg.connect(self.ready["nodes"][node]["dsn"], timeout=_SQL_S)
            try:
                yield connection
            finally:
                connection.terminate()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise ClusterAway(f"node {node} does not answer in SQL: {error!r}") from error

    async def rows(self, node: str) -> Rows:
        """Every appointment on a node. Raises Unreadable when PostgreSQL cannot read them, ClusterAway."""
        try:
            async with self.sql(node) as connection:
                found = await connection.fetch(_ROWS)
        except ClusterAway as error:
            if isinstance(
                error.__cause__, asyncpg.DataCorruptedError | asyncpg.IndexCorruptedError | asyncpg.InternalServerError
            ):
                raise Unreadable(f"the bookings on node {node} cannot be read: {error.__cause__}") from error
            raise
        return {
            row["id"]: Facts(
                status=row["status"],
                start_s=row["start_s"],
                end_s=row["end_s"],
                practitioner=row["practitioner_id"],
                patient=row["patient_id"],
                location=row["location_id"],
                version=row["version"],
                comment=row["comment"],
            )
            for row in found
        }

    def postmaster(self, node: str) -> int:
        """The pid of a node's PostgreSQL. Raises ClusterAway when none runs."""
        try:
            return int((Path(self.ready["nodes"][node]["data_dir"]) / "postmaster.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError) as error:
            raise ClusterAway(f"PostgreSQL of node {node} does not run") from error

    def pid(self, process: str) -> int:
        """The pid of `server`, `controller` or `agent NODE`."""
        pids = self.ready["pids"]
        kind, _, node = process.partition(" ")
        found = pids["agents"][node] if kind == "agent" else pids[kind]
        if found is None:
            raise ClusterAway(f"the {process} does not run")
        return int(found)

    def disk(self, node: str) -> FaultFsClient | None:
        """How its disk is steered, under --faultfs."""
        path = self.ready["nodes"][node].get("faultfs")
        return FaultFsClient(Path(path)) if path else None

    async def stop(self) -> None:
        """Ctrl-C, and whatever is needed after that: nothing of it is left."""
        if self._session is not None:
            await self._session.close()
        await asyncio.to_thread(self._end)

    def last_words(self) -> str:
        """Of `locum up`."""
        with contextlib.suppress(OSError):
            return " ".join(self._output.read_text(encoding="utf-8", errors="replace").split()[-60:])
        return "it said nothing"

    @property
    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise ClusterAway("the cluster was not started")
        return self._session

    async def _get(self, path: str) -> Any:
        try:
            async with self._http.get(self.ready["controller"] + path) as answer:
                if answer.status != 200:
                    raise ClusterAway(f"{path} answered {answer.status}")
                return msgspec.json.decode(await answer.read())
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            raise ClusterAway(f"the controller does not answer: {error!r}") from error

    async def _post(self, url: str, body: dict[str, Any]) -> bytes:
        token = await asyncio.to_thread(_read, Path(self.ready["token_file"]))
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with self._http.post(url, json=body, headers=headers) as answer:
                if answer.status >= 300:
                    raise ClusterAway(f"{url} was refused: {answer.status} {(await answer.text())[:300]}")
                return await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ClusterAway(f"{url} was not answered: {error!r}") from error

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
            self._kill_what_is_left()
        for node in ("a", "b"):
            unmount(self.data / "nodes" / node / "pgdata")

    def _kill_what_is_left(self) -> None:
        """`up` did not end by itself: its children and their PostgreSQL, by the pids that it wrote down."""
        pids = []
        for node in ("a", "b"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                pids.append(int((self.data / "nodes" / node / "pgdata/postmaster.pid").read_text().split()[0]))
        with contextlib.suppress(OSError, msgspec.DecodeError):
            recorded = msgspec.json.decode((self.data / "pids.json").read_bytes(), type=dict[str, dict[str, Any]])
            pids += [int(process["pid"]) for process in recorded.values()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _read(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()


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
