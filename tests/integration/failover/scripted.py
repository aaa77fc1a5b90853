"""Agents that say what a test tells them to: real HTTP, scripted reports. For the controller's I/O and timing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from failover.client import ControllerClient
from failover.controller import Controller, running_controller
from failover.core.model import Decision, NodeRecord, Observation, State, TermRecord
from failover.settings import ControllerSettings, NodeAddress
from failover.store.base import JournalEntry
from failover.store.sqlite import SqliteStore
from replication.actions import Action, LeaseRenewal, Op, Refusal, op_name
from replication.client import RefusedAction
from replication.model import (
    ActionResult,
    DataDirectory,
    Doing,
    NodeReport,
    Postmaster,
    Probe,
    Receiver,
    Role,
    Slot,
    Stage,
    Walsender,
    Witness,
)
from replication.wire.http import json_response, new_session, read_json
from replication.wire.secrets import write_private
from replication.wire.sse import EventHub
from tests.nodes import HOST
from tests.ports import free_port

TOKEN = "0123456789abcdef"
_LSN = 0x5000000
_GOOD = Probe(ok=True, age_ms=1, took_ms=1)

HEALTHY = State(
    revision=20,
    term=3,
    now_ms=60_000,
    system_identifier="7",
    schema_applied=True,
    primary="a",
    nodes={
        "a": NodeRecord(name="a", eligible_reason="it is the primary"),
        "b": NodeRecord(
            name="b",
            generation=4,
            started_generation=4,
            eligible=True,
            eligible_reason="growth proved",
            eligible_incarnation="22:2",
            eligible_primary_incarnation="11:1",
            grown_walsender="33/then",
            confirmed_flush_lsn=_LSN,
            confirmed_timeline=2,
        ),
    },
    history=(TermRecord(3, "a", 2, _LSN - 1000),),
)


def primary_report(node: str = "a") -> NodeReport:
    return NodeReport(
        node=node,
        boot_id=f"boot-{node}",
        seq=1,
        clock_ms=0,
        term=3,
        revision=20,
        data=DataDirectory.PRESENT,
        system_identifier="7",
        postmaster=Postmaster.RUNNING,
        incarnation="11:1",
        configured_role=Role.PRIMARY,
        stage=Stage.OPEN,
        in_recovery=False,
        timeline=2,
        insert_lsn=_LSN,
        flush_lsn=_LSN,
        names=("b_g4",),
        walsenders=(Walsender("b_g4", 33, "then", "streaming", "sync", _LSN, _LSN),),
        slots=(Slot("locum_b", True, "reserved"),),
        sql=_GOOD,
        disk=_GOOD,
        schema_applied=True,
    )


def standby_report() -> NodeReport:
    return NodeReport(
        node="b",
        boot_id="boot-b",
        seq=1,
        clock_ms=0,
        term=3,
        revision=19,
        data=DataDirectory.PRESENT,
        system_identifier="7",
        postmaster=Postmaster.RUNNING,
        incarnation="22:2",
        configured_role=Role.STANDBY,
        configured_name="b_g4",
        in_recovery=True,
        timeline=2,
        receive_lsn=_LSN,
        replay_lsn=_LSN,
        receiver=Receiver("streaming", "b_g4", 1, 2),
        sql=_GOOD,
        disk=_GOOD,
        witness=Witness("a", "connected", 10, 5),
        schema_applied=True,
    )


class ScriptedAgent:
    """Answers as an agent does; what it accepts runs until `finish`."""

    def __init__(self, report: NodeReport) -> None:
        self.report = report
        self.port = free_port()
        self.actions: list[tuple[float, Action]] = []
        self.renewals: list[LeaseRenewal] = []
        self.observed = 0
        self.witnesses = 0
        self.refusals = 0
        """How many of the next actions are refused."""
        self._hub = EventHub()
        self._going = asyncio.Event()
        self._going.set()
        self._arrived = asyncio.Event()
        self._runner: web.AppRunner

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def start(self) -> None:
        app = web.Application()
        app.add_routes(
            [
                web.get("/v1/observe", self._observe),
                web.get("/v1/events", self._events),
                web.post("/v1/actions", self._act),
                web.post("/v1/lease", self._renew_lease),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self.port, reuse_address=True).start()

    async def die(self) -> None:
        """As after a SIGKILL: the port refuses, and every connection is gone at once."""
        for site in self._runner.sites:
            await site.stop()
        server = self._runner.server
        for connection in server.connections if server is not None else ():
            if connection.transport is not None:
                connection.transport.abort()
        self._hub.close()
        await self._runner.cleanup()

    def hang(self) -> None:
        """As after a SIGSTOP: nothing is answered any more."""
        self._going.clear()

    def go_on(self) -> None:
        self._going.set()

    def change(self, **changes: Any) -> None:
        """Another report from now on, told to nobody."""
        self.report = msgspec.structs.replace(self.report, **changes)

    def tell(self, **changes: Any) -> float:
        """Another report, pushed as an event; when."""
        self.change(**changes)
        self._hub.publish("report", msgspec.json.encode(self._now()), key="report")
        return time.monotonic()

    async def until_action(self, op: str, *, deadline_s: float = 5) -> tuple[float, Action]:
        """The first action of this kind, and when it came."""
        async with asyncio.timeout(deadline_s):
            while True:
                self._arrived.clear()
                for at, action in self.actions:
                    if op_name(action.op) == op:
                        return at, action
                await self._arrived.wait()

    def finish(self, action: Action, **changes: Any) -> float:
        """The action ended well, with these effects, and that is pushed; when."""
        result = ActionResult(action.revision, op_name(action.op), True, "done")
        return self.tell(doing=None, results=(*self.report.results, result), **changes)

    def ops(self) -> list[Op]:
        return [action.op for _, action in self.actions]

    def _now(self) -> NodeReport:
        self.change(seq=self.report.seq + 1, clock_ms=int(time.monotonic() * 1000))
        return self.report

    async def _observe(self, request: web.Request) -> web.Response:
        await self._going.wait()
        self.observed += 1
        self.witnesses += request.query.get("witness") == "1"
        return json_response(self._now())

    async def _events(self, request: web.Request) -> web.StreamResponse:
        await self._going.wait()
        self.tell()
        return await self._hub.serve(request)

    async def _renew_lease(self, request: web.Request) -> web.Response:
        self.renewals.append(await read_json(request, LeaseRenewal))
        return json_response({"expires_in_ms": 3_000})

    async def _act(self, request: web.Request) -> web.Response:
        at = time.monotonic()
        await self._going.wait()
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        action = await read_json(request, Action)
        if self.refusals > 0:
            self.refusals -= 1
            return json_response(RefusedAction(Refusal.BUSY, "a certify is under way"), 409)
        doing = Doing(action.revision, op_name(action.op), 0)
        self.change(term=max(action.term, self.report.term), revision=action.revision, doing=doing)
        self.actions.append((at, action))
        self._arrived.set()
        return json_response({"accepted": True}, 202)


class Scene:
    """Two scripted agents and the settings of a controller over them."""

    def __init__(self, root: Path, session: aiohttp.ClientSession, **settings: Any) -> None:
        self.a, self.b = ScriptedAgent(primary_report()), ScriptedAgent(standby_report())
        self.session = session
        write_private(root / "token", TOKEN + "\n")
        self.settings = ControllerSettings(
            store_path=root / "locum.sqlite",
            token_file=root / "token",
            nodes={name: NodeAddress(agent.url, HOST, 1) for name, agent in (("a", self.a), ("b", self.b))},
            listen_port=free_port(),
            **settings,
        )
        self.url = f"http://{HOST}:{self.settings.listen_port}"

    def client(self, token: str = TOKEN) -> ControllerClient:
        return ControllerClient(self.session, self.url, token)

    async def store_state(self, state: State) -> None:
        """What an earlier controller left behind."""
        store = await SqliteStore.open(self.settings.store_path)
        entry = JournalEntry(
            state.revision, Observation(now_ms=0, at="", nodes={}), Decision(kind="steady", sentence="")
        )
        await store.save(state, 0, entry)
        await store.close()

    @asynccontextmanager
    async def controller(self) -> AsyncIterator[Controller]:
        """A controller that leads and has looked at the agents."""
        async with running_controller(self.settings) as controller:
            await self.client().ready(deadline_ms=5_000)
            yield controller

    async def wait(self, condition: Callable[[dict[str, Any]], object], *, deadline_s: float = 5) -> dict[str, Any]:
        """Poll the cluster until the condition holds."""
        async with asyncio.timeout(deadline_s):
            while not condition(cluster := await self.client().cluster()):
                await asyncio.sleep(0.01)
        return cluster


@asynccontextmanager
async def scene(root: Path, *, state: State | None = HEALTHY, **settings: Any) -> AsyncIterator[Scene]:
    """Both agents answer, and the store holds this state."""
    async with new_session() as session:
        made = Scene(root, session, **settings)
        if state is not None:
            await made.store_state(state)
        await made.a.start()
        await made.b.start()
        try:
            yield made
        finally:
            for agent in (made.a, made.b):
                agent.go_on()
                await agent.die()
