"""A real PostgreSQL with Locum's schema, a real stream of topology records, and a whole server in this process.

`async with clinic(tmp_path) as it:` gives all three. Everything started is ended by its own pid when the block ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from replication import topology
from replication.installation import find_installation
from replication.model import ServerReport
from replication.scram import scram_secret
from replication.topology import Phase, PrimaryEndpoint, StandbyEndpoint, Topology
from replication.wire.http import json_response, new_session, read_json, token_guard
from replication.wire.process import listening
from replication.wire.secrets import write_private
from replication.wire.sse import EventHub
from server.app import serving
from server.context import Context
from server.scheduling import Rules
from server.settings import ServerSettings
from tests.integration.server.bodies import Json, book_body, find_body
from tests.ports import free_port

HOST = "127.0.0.1"
SCHEMA = Path(__file__).parents[3] / "server" / "schema.sql"
PASSWORD = secrets.token_hex(16)
TOKEN = secrets.token_hex(16)
_SCRATCH = tempfile.TemporaryDirectory(prefix="locum-server-")
_CONF = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
synchronous_commit = on
max_connections = 60
shared_buffers = 32MB
wal_level = replica
hot_standby = on
restart_after_crash = off
timezone = 'UTC'
wal_retrieve_retry_interval = '50ms'
max_standby_streaming_delay = '1s'
"""


class Node:
    """One PostgreSQL: a data directory and, while it runs, a postmaster. Restarts may change port and term."""

    def __init__(self, name: str, data: Path) -> None:
        self.name = name
        self.data = data
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """As the topology record names it: without a password."""
        return f"postgresql://locum_server@{HOST}:{self.port}/locum"

    @property
    def pid(self) -> int:
        """Of the running postmaster."""
        assert self._process is not None
        return self._process.pid

    async def start(self, term: int, *, new_port: bool = False) -> None:
        """Start and wait until it lets a superuser in."""
        self.port = free_port() if new_port else self.port
        self.configure(f"port = {self.port}\nlocum.term = '{term}'\n")
        await asyncio.to_thread(self._launch)
        async with asyncio.timeout(60):
            while True:
                assert self._process is not None
                assert self._process.poll() is None, (self.data.parent / f"{self.name}.log").read_text()[-2000:]
                with contextlib.suppress(OSError, asyncpg.PostgresError):
                    await (await self.superuser()).close()
                    return
                await asyncio.sleep(0.02)

    def configure(self, lines: str) -> None:
        """What differs from start to start."""
        (self.data / "locum.conf").write_text(lines, encoding="utf-8")

    async def reload(self, lines: str) -> None:
        """Change settings of the running node, port included in `lines` only for form's sake."""
        self.configure(lines)
        os.kill(self.pid, signal.SIGHUP)

    def signal(self, number: signal.Signals) -> None:
        """To the postmaster and all its children, as when the machine stops or loses power."""
        for pid in [self.pid, *children(self.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    async def kill(self) -> None:
        """SIGKILL of all, and the end of the postmaster seen."""
        if self._process is not None:
            process, pids = self._process, [self.pid, *children(self.pid)]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.to_thread(process.wait, 30)
            self._process = None
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    async def superuser(self, database: str = "postgres") -> asyncpg.Connection:
        """A connection that may do anything."""
        return await asyncpg.connect(
            host=HOST, port=self.port, user="postgres", database=database, timeout=10, ssl=False
        )

    @asynccontextmanager
    async def sql(self) -> AsyncIterator[asyncpg.Connection]:
        """The superuser in the booking database."""
        connection = await self.superuser("locum")
        try:
            yield connection
        finally:
            await connection.close()

    def _launch(self) -> None:
        command = find_installation(None).command("postgres", "-D", str(self.data))
        with (self.data.parent / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def children(pid: int) -> list[int]:
    """The children of a process."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@cache
def template() -> Path:
    """A cluster with the schema, made once a test run."""
    return asyncio.run(_make_template())


async def _make_template() -> Path:
    data = Path(_SCRATCH.name, "template")
    initdb = find_installation(None).command("initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "-N")
    await asyncio.to_thread(subprocess.run, initdb, check=True, capture_output=True, timeout=120)
    (data / "postgresql.conf").write_text(f"{_CONF}\ninclude = 'locum.conf'\n", encoding="utf-8")
    hba = "host all postgres 127.0.0.1/32 trust\nhost replication postgres 127.0.0.1/32 trust\n"
    (data / "pg_hba.conf").write_text(f"{hba}host locum locum_server 127.0.0.1/32 scram-sha-256\n", encoding="utf-8")
    node = Node("template", data)
    await node.start(1)
    try:
        connection = await node.superuser()
        await connection.execute(f"CREATE ROLE locum_server LOGIN PASSWORD '{scram_secret(PASSWORD)}'")
        await connection.execute("CREATE DATABASE locum")
        await connection.execute("REVOKE ALL ON DATABASE locum FROM PUBLIC")
        await connection.execute("GRANT CONNECT ON DATABASE locum TO locum_server")
        await connection.close()
        async with node.sql() as connection:
            for _ in range(2):  # it may be applied again
                await connection.execute(SCHEMA.read_text(encoding="utf-8"))
            await connection.execute("CHECKPOINT")
        process = node._process
        os.kill(node.pid, signal.SIGINT)
        assert process is not None
        await asyncio.to_thread(process.wait, 30)
    finally:
        if node._process is not None and node._process.poll() is None:
            await node.kill()
    return data


class Clinic:
    """The server under test and everything around it that it talks to."""

    def __init__(self, root: Path, node: Node, session: aiohttp.ClientSession) -> None:
        self.root = root
        self.node = node
        self.session = session
        self.reports: list[ServerReport] = []
        self.hub = EventHub()
        self.port = free_port()
        self.controller_port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.shared: Context | None = None
        self.is_away = False
        """The controller answers 503 to everything."""
        self.refused = 0
        self._news = asyncio.Event()

    def publish(
        self, term: int, primary: Node | None, phase: Phase = Phase.HEALTHY, standbys: tuple[Node, ...] = ()
    ) -> None:
        """Send a topology record, as the controller would."""
        record = Topology(
            term,
            PrimaryEndpoint(primary.name, primary.dsn) if primary else None,
            tuple(StandbyEndpoint(node.name, node.dsn, True, 1, None) for node in standbys),
            phase,
        )
        self.hub.publish("topology", topology.encode(record))

    def controller(self) -> web.Application:
        """The two routes of a controller that a server uses."""

        @web.middleware
        async def away(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not self.is_away:
                return await handler(request)
            self.refused += 1
            return web.Response(status=503)

        app = web.Application(middlewares=[away, token_guard(TOKEN)])
        app.router.add_get("/v1/topology", self.hub.serve)
        app.router.add_post("/v1/evidence", self._take_evidence)
        return app

    async def wait_report(self, condition: Callable[[ServerReport], object], deadline_s: float = 10) -> ServerReport:
        """The first report from now on that fits."""
        seen = len(self.reports)
        async with asyncio.timeout(deadline_s):
            while True:
                for report in self.reports[seen:]:
                    if condition(report):
                        return report
                seen = len(self.reports)
                self._news.clear()
                await self._news.wait()

    async def call(self, path: str, body: Json | None = None, **headers: str) -> tuple[int, Json, Any]:
        """GET, or POST of a body: status, resource and headers. Header names have `_` for `-`."""
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        content = None if body is None else msgspec.json.encode(body)
        if content is not None:
            said.setdefault("Content-Type", "application/fhir+json")
        method = "GET" if content is None else "POST"
        async with self.session.request(method, f"{self.url}{path}", data=content, headers=said) as answer:
            raw = await answer.read()
            return answer.status, msgspec.json.decode(raw) if raw else {}, answer.headers

    async def ready(self) -> None:
        """Wait until bookings work."""
        async with asyncio.timeout(30):
            while (await self.call("/readyz"))[0] != 200:
                await asyncio.sleep(0.01)

    async def proposals(self, count: int, **more: Any) -> list[Json]:
        """The earliest free slots of the next days as proposed Appointments, from an hour on: none is past when it is booked."""
        soon = datetime.now(UTC) + timedelta(hours=1)
        status, bundle, _ = await self.call(
            "/fhir/Appointment/$find", find_body(soon, soon + timedelta(days=7), count=count, **more)
        )
        assert status == 200, bundle
        return [entry["resource"] for entry in bundle.get("entry", [])]

    async def book(self, proposal: Json, patient: str, **headers: str) -> tuple[int, Json, Any]:
        """$book of a proposal."""
        return await self.call("/fhir/Appointment/$book", book_body(proposal["id"], patient), **headers)

    async def rows(self) -> list[Any]:
        """All appointments that keep others out, from the database itself."""
        async with self.node.sql() as connection:
            rows = await connection.fetch("SELECT * FROM appointment WHERE status <> 'cancelled'")
            return list(rows)

    async def _take_evidence(self, request: web.Request) -> web.StreamResponse:
        self.reports.append(await read_json(request, ServerReport))
        self._news.set()
        return json_response({"ok": True})


@asynccontextmanager
async def clinic(
    root: Path, *, practitioners: int = 3, rules: Rules | None = None, **more: Any
) -> AsyncIterator[Clinic]:
    """A running server whose primary is `node` in term 1, with the demo clinic."""
    source = await asyncio.to_thread(template_in_thread)
    data = root / "a"
    await asyncio.to_thread(shutil.copytree, source, data)
    node = Node("a", data)
    write_private(root / "token", TOKEN)
    write_private(root / "password", PASSWORD)
    write_private(root / "seal", TOKEN)
    async with new_session() as session:
        it = Clinic(root, node, session)
        settings = ServerSettings(
            controller_url=f"http://{HOST}:{it.controller_port}",
            token_file=root / "token",
            password_file=root / "password",
            seal_key_file=root / "seal",
            state_dir=root,
            listen_port=it.port,
            **{"demo_practitioners": practitioners, **more},
        )
        try:
            await node.start(1)
            it.publish(1, node)
            async with listening(it.controller(), HOST, it.controller_port, shutdown_ms=100):
                async with serving(settings, rules) as shared:
                    it.shared = shared
                    await it.ready()
                    yield it
                it.hub.close()
        finally:
            await node.kill()


def template_in_thread() -> Path:
    """The template, made outside of the running event loop."""
    return template()


async def standby_of(node: Node, root: Path, name: str = "b") -> Node:
    """A streaming standby of a running node, by pg_basebackup; not synchronous until the primary's settings say so."""
    data = root / name
    command = find_installation(None).command(
        "pg_basebackup",
        *("-D", str(data), "-h", HOST, "-p", str(node.port), "-U", "postgres", "-c", "fast", "-X", "stream"),
    )
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, timeout=60)
    (data / "standby.signal").touch()
    conninfo = f"host={HOST} port={node.port} user=postgres application_name={name}"
    with (data / "postgresql.conf").open("a", encoding="utf-8") as conf:
        conf.write(f"primary_conninfo = '{conninfo}'\n")
    return Node(name, data)


async def until(condition: Callable[[], object], deadline_s: float = 10) -> None:
    """Poll until it holds."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        await asyncio.sleep(0.005)
