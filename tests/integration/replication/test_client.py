"""Calls to an agent over a real socket: what comes back as a value, and what as an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import msgspec
import pytest
from aiohttp import web

from replication.actions import Action, Fence, Refusal
from replication.client import AgentClient, RefusedAction, WalHash
from replication.model import NodeReport
from replication.wire.errors import WireError
from replication.wire.http import error_middleware, json_response, new_session, read_json, token_guard
from replication.wire.process import listening
from replication.wire.sse import EventHub
from tests.ports import free_port

REPORT = NodeReport(node="a", boot_id="boot", seq=1, clock_ms=5)
FENCE = Action("a", 1, 7, "boot", 5, Fence())


class Peer:
    """Just enough of an agent's HTTP to call."""

    def __init__(self) -> None:
        self.hub = EventHub()
        self.accepted: list[Action] = []
        self.is_hung = False

    async def observe(self, request: web.Request) -> web.StreamResponse:
        if self.is_hung:
            await asyncio.Event().wait()
        return json_response(msgspec.structs.replace(REPORT, seq=2 if request.query.get("witness") == "1" else 1))

    async def act(self, request: web.Request) -> web.StreamResponse:
        action = await read_json(request, Action)
        if any(action.revision <= earlier.revision for earlier in self.accepted):
            return json_response(RefusedAction(Refusal.STALE_REVISION, "an equal revision was accepted"), 409)
        self.accepted.append(action)
        return json_response({"accepted": True}, 202)

    async def wal_hash(self, request: web.Request) -> web.StreamResponse:
        if int(request.query["start"]) < 100:
            return json_response({"error": "not_found", "sentence": "recycled"}, 404)
        return json_response(WalHash("ab", 500, (1,)))

    async def history(self, _request: web.Request) -> web.StreamResponse:
        return json_response({"unexpected": True})


@asynccontextmanager
async def calling(token: str = "right") -> AsyncIterator[tuple[Peer, AgentClient]]:
    peer, port = Peer(), free_port()
    app = web.Application(middlewares=[error_middleware, token_guard("right")])
    app.router.add_get("/v1/observe", peer.observe)
    app.router.add_get("/v1/events", peer.hub.serve)
    app.router.add_post("/v1/actions", peer.act)
    app.router.add_get("/v1/wal/hash", peer.wal_hash)
    app.router.add_get("/v1/history", peer.history)
    async with listening(app, "127.0.0.1", port, shutdown_ms=50), new_session() as session:
        yield peer, AgentClient(session, f"http://127.0.0.1:{port}/", token)


async def test_reports_actions_and_hashes() -> None:
    async with calling() as (peer, client):
        assert await client.observe() == REPORT
        assert (await client.observe(witness=True)).seq == 2
        assert await client.act(FENCE) is None
        assert peer.accepted == [FENCE]
        refused = await client.act(FENCE)
        assert refused is not None
        assert refused.refused is Refusal.STALE_REVISION
        assert await client.wal_hash(1, 100, 200) == WalHash("ab", 500, (1,))
        assert await client.wal_hash(1, 50, 200) is None


async def test_the_end_of_the_stream_is_the_death_notice() -> None:
    async with calling() as (peer, client), aclosing(client.events()) as events:
        peer.hub.publish("report", msgspec.json.encode(REPORT))
        assert await anext(events) == REPORT
        peer.hub.close()
        with pytest.raises(WireError):
            await anext(events)


async def test_silence_and_nonsense_are_errors() -> None:
    async with calling() as (peer, client):
        with pytest.raises(WireError, match="does not answer"):
            await client.history()
        peer.is_hung = True
        with pytest.raises(WireError) as caught:
            await client.observe(deadline_ms=100)
        assert caught.value.silence == "timeout"


async def test_a_wrong_token_moves_nothing() -> None:
    async with calling(token="wrong") as (peer, client):
        with pytest.raises(WireError, match="401"):
            await client.act(FENCE)
        assert peer.accepted == []
