"""The agent's HTTP interface, as docs/PROTOCOL.md lists it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from replication.actions import Action, LeaseRenewal, Refusal
from replication.api_copy import CopyApi
from replication.api_scrub import ScrubApi
from replication.errors import ActionFailed, StateError, WalUnavailable
from replication.wal_service import answer_history, answer_wal_end, answer_wal_error, answer_wal_hash
from replication.wall_clock import set_offset, wall_now
from replication.wire.http import error_middleware, json_response, read_json, token_guard

if TYPE_CHECKING:
    from replication.agent import Agent
    from replication.local_node import LocalNode

_FRESH_SQL_MS = 50
_OBSERVE_DEADLINE_S = 0.1
_WITNESS_DEADLINE_S = 0.15
_ACTION_BYTES_MAX = 256 * 1024 * 1024
"""CheckReceipts carries the receipts of days."""


class ClockJump(msgspec.Struct, frozen=True):
    """The body of POST /v1/clock."""

    wall_clock_offset_ms: int


def make_app(agent: Agent) -> web.Application:
    """The application of one agent; every POST needs the bearer token."""
    api = AgentApi(agent)
    app = web.Application(
        middlewares=[error_middleware, token_guard(agent.node.secret("token")), _after_begin(agent)],
        client_max_size=_ACTION_BYTES_MAX,
    )
    app.add_routes(
        [
            web.get("/livez", api.livez),
            web.get("/v1/observe", api.observe),
            web.get("/v1/events", api.events),
            web.post("/v1/actions", api.act),
            web.post("/v1/lease", api.renew_lease),
            web.get("/v1/wal/end", api.wal_end),
            web.get("/v1/wal/hash", api.wal_hash),
            web.get("/v1/wal/error", api.wal_error),
            web.get("/v1/history", api.history),
            web.post("/v1/replay/pause", api.pause_replay),
            web.post("/v1/replay/resume", api.resume_replay),
            web.post("/v1/clock", api.set_clock),
            *ScrubApi(agent).routes(),
            *CopyApi(agent).routes(),
        ]
    )
    return app


def _after_begin(agent: Agent) -> Middleware:
    """Answer nothing from a memory that has not looked at the node yet: a restarted agent would report a dead one."""

    @web.middleware
    async def wait(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path != "/livez":
            await agent.begun.wait()
        return await handler(request)

    return wait


class AgentApi:
    """One method a route."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def observe(self, request: web.Request) -> web.Response:
        """The report. A look at the node's own SQL, and with `witness=1` at the peer, is given a moment to be fresh; with
        `fresh=1` SQL facts from before the question do not count."""
        agent = self._agent
        looks = []
        if agent.supervisor.running:
            max_age_ms = 0 if request.query.get("fresh") == "1" else _FRESH_SQL_MS
            looks.append(asyncio.create_task(agent.sql.refresh(max_age_ms=max_age_ms)))
        witness = request.query.get("witness") == "1"
        if witness:
            looks.append(asyncio.create_task(agent.witness.look()))
        if looks:
            # What is not ready by then goes on: the next report has it. Cancelled, it would take the probe along.
            agent.keep(looks)
            await asyncio.wait(looks, timeout=_WITNESS_DEADLINE_S if witness else _OBSERVE_DEADLINE_S)
        return json_response(agent.publisher.report())

    async def events(self, request: web.Request) -> web.StreamResponse:
        """A fresh report at once, then one with every change that matters."""
        self._agent.publisher.tell("subscribed")
        return await self._agent.publisher.hub.serve(request)

    async def act(self, request: web.Request) -> web.Response:
        """Accept an action (202) or refuse it (409)."""
        action = await read_json(request, Action)
        try:
            refused = await self._agent.runner.accept(action)
        except StateError as error:
            return json_response({"error": "state_unwritable", "sentence": str(error)}, 500)
        return json_response({"accepted": True}, 202) if refused is None else json_response(refused, 409)

    async def renew_lease(self, request: web.Request) -> web.Response:
        """Extend the node lease (200), or refuse the word of another boot's or an earlier term's controller (409)."""
        renewal = await read_json(request, LeaseRenewal)
        agent = self._agent
        if renewal.boot_id != agent.memory.boot_id:
            return json_response(
                {"refused": Refusal.OTHER_BOOT, "sentence": "another run of this agent said that"}, 409
            )
        if renewal.term < agent.store.state.term:
            sentence = f"term {renewal.term} is over: this node knows term {agent.store.state.term}"
            return json_response({"refused": Refusal.LOWER_TERM, "sentence": sentence}, 409)
        agent.lease.renew(renewal.answered_ms)
        return json_response({"expires_in_ms": agent.lease.expires_in_ms()})

    async def pause_replay(self, request: web.Request) -> web.Response:
        """Answers once replay stands still; lifted by itself after `replay_pause_max_ms`."""
        del request
        try:
            await self._agent.replay_pause.pause()
        except ActionFailed as error:
            return _failed(error)
        return json_response({"paused": True})

    async def resume_replay(self, request: web.Request) -> web.Response:
        """Lift the pause."""
        del request
        try:
            await self._agent.replay_pause.resume()
        except ActionFailed as error:
            return _failed(error)
        return json_response({"paused": False})

    async def wal_end(self, request: web.Request) -> web.Response:
        """Where this node's WAL ends, when that can be told now; else 409."""
        del request
        try:
            return json_response(await answer_wal_end(self._agent.local))
        except ActionFailed as error:
            return _failed(error)

    async def wal_hash(self, request: web.Request) -> web.Response:
        """SHA-256 of WAL bytes; 404 when they are not there."""
        return await self._of_wal(request, answer_wal_hash)

    async def wal_error(self, request: web.Request) -> web.Response:
        """Where WAL cannot be read; 404 when so much is not flushed."""
        return await self._of_wal(request, answer_wal_error)

    async def _of_wal(
        self, request: web.Request, answer: Callable[[LocalNode, int, int, int], Awaitable[object]]
    ) -> web.Response:
        try:
            timeline, start, end = (int(request.query[key]) for key in ("timeline", "start", "end"))
        except (KeyError, ValueError) as error:
            raise web.HTTPBadRequest(text="timeline, start and end are needed, each an integer") from error
        try:
            return json_response(await answer(self._agent.local, timeline, start, end))
        except WalUnavailable as error:
            return json_response({"error": "not_found", "sentence": str(error)}, 404)
        except ActionFailed as error:
            return _failed(error)

    async def history(self, request: web.Request) -> web.Response:
        """The running node's timeline and where each earlier one ended."""
        del request
        try:
            return json_response(await answer_history(self._agent.local))
        except ActionFailed as error:
            return _failed(error)

    async def set_clock(self, request: web.Request) -> web.Response:
        """Let this agent's wall clock be wrong by so much, for a drill; 400 for a jump beyond ten years."""
        wanted = await read_json(request, ClockJump)
        try:
            set_offset(wanted.wall_clock_offset_ms)
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        return json_response({"now": wall_now()})

    async def livez(self, request: web.Request) -> web.Response:
        """The event loop runs."""
        del request
        return json_response({"ok": True})


def _failed(error: ActionFailed) -> web.Response:
    return json_response({"error": error.reason.value, "sentence": error.sentence}, 409)
