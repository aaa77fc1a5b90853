"""A throw-away cluster of a drill: `locum up` as a subprocess, looked at over HTTP, SQL and the ready file, as an outsider would."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec

from failover.drill.checker import Rows
from failover.drill.errors import ClusterAway, Unreadable
from failover.drill.faultfs.client import FaultFsClient
from failover.drill.history import Facts

READY_S = 90.0
_STOPPED_S = 60.0
_ASK_S = 5.0
_SQL_S = 20.0
_LOOK_EVERY_S = 0.05
_PORTS_FROM, _PORTS_TO, _PORTS_USED = 18_000, 31_000, 45
_ROWS = """
SELECT id::text AS id, status, extract(epoch FROM lower(during))::bigint AS start_s,
       extract(epoch FROM upper(during))::bigint AS end_s, practitioner_id, location_id, device_id, patient_id, version,
       left(encode(sha256(convert_to(comment, 'UTF8')), 'hex'), 12) AS comment
FROM appointment
"""
"""The drill's own words: what the server says of itself is what is being checked."""


class Cluster:
    """A running cluster, by the ready file that it keeps up to date. Raises ClusterAway where it does not answer."""

    def __init__(self, ready_file: Path) -> None:
        self._ready_file = ready_file
        self._session: aiohttp.ClientSession | None = None

    @property
    def ready(self) -> dict[str, Any]:
        """The ready file as it is now: pids change when a process was started again."""
        try:
            found: dict[str, Any] = msgspec.json.decode(self._ready_file.read_bytes())
        except (OSError, msgspec.DecodeError) as error:
            raise ClusterAway(f"{self._ready_file} cannot be read: {error}; {self.last_words()}") from error
        return found

    def last_words(self) -> str:
        """What it said, where that is known."""
        return "is it running?"

    @property
    def root(self) -> Path:
        """The data directory of its `locum up`."""
        return Path(next(iter(self.ready["nodes"].values()))["data_dir"]).parents[2]

    async def start(self, *, wait: bool = True) -> None:
        """Begin to look at it; `wait` until it is healthy."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ASK_S))
        if wait:
            await self.until(lambda view: view["phase"] == "healthy", READY_S)

    async def stop(self) -> None:
        """It goes on; nobody looks at it any more."""
        if self._session is not None:
            await self._session.close()

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
                device=row["device_id"],
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


def _read(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()
