"""The agent's HTTP interface to its scrub: begin a pass, and what its peer asks about single pages (docs/PROTOCOL.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog
from aiohttp import web

from replication.errors import SQL_ERRORS, ActionFailed
from replication.scrub.compare import JudgePage, Range
from replication.scrub.relation_path import relation_at
from replication.scrub.status_protocol import AskStatus, StatusPage
from replication.wire.http import json_response, read_json

if TYPE_CHECKING:
    from replication.agent import Agent

_log = structlog.get_logger()

_NO_ANSWER: tuple[type[Exception], ...] = (ActionFailed, *SQL_ERRORS)


class AskPause(msgspec.Struct, frozen=True):
    """The body of POST /v1/scrub/pause."""

    for_s: float


class ScrubApi:
    """Every one of these needs the bearer token."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def routes(self) -> list[web.RouteDef]:
        """For the agent's application."""
        return [
            web.post("/v1/scrub", self.scrub),
            web.post("/v1/scrub/pause", self.pause),
            web.post("/v1/pages/copies", self.copies),
            web.post("/v1/pages/judge", self.judge),
            web.post("/v1/pages/xact", self.status),
            web.post("/v1/pages/raw", self.raw),
            web.post("/v1/evidence", self.evidence),
        ]

    async def scrub(self, request: web.Request) -> web.Response:
        """Begin a pass over all pages now, as fast as the disk is (202); 409 when the settings have ended the scrub."""
        del request
        if not self._agent.node.settings.scrub_enabled:
            return json_response({"sentence": "scrub_enabled is false in the settings of this node"}, 409)
        self._agent.scrub.hurry()
        return json_response({"sentence": "a pass over all pages begins"}, 202)

    async def pause(self, request: web.Request) -> web.Response:
        """Read no pages for so long (200); 0 ends the pause; 400 for a time that makes no sense."""
        asked = await read_json(request, AskPause)
        try:
            self._agent.memory.scrub_pause.begin(asked.for_s)
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        _log.info("agent.scrub_paused", for_s=asked.for_s)
        return json_response({"paused_for_s": asked.for_s})

    async def copies(self, request: web.Request) -> web.Response:
        """This node's copies of the pages that are named; 400 for too many, 409 when its disk does not give them."""
        ranges = await read_json(request, list[Range])
        try:
            return json_response(await self._agent.scrub.compare.copies(ranges))
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        except OSError as error:
            return json_response({"error": "failed", "sentence": error.strerror or str(error)}, 409)

    async def judge(self, request: web.Request) -> web.Response:
        """What this node's WAL says of its own copy of a page; 409 when it cannot be asked now."""
        asked = await read_json(request, JudgePage)
        try:
            return json_response(await self._agent.scrub.judge.judge(asked))
        except _NO_ANSWER as error:
            return json_response({"error": "failed", "sentence": str(error) or repr(error)}, 409)

    async def status(self, request: web.Request) -> web.Response:
        """This node's pg_xact between two transaction ids, as digests, or one page of it; 409 when it cannot be read now."""
        asked = await read_json(request, AskStatus)
        try:
            if asked.page is None:
                return json_response(await self._agent.scrub.status.span(asked.oldest, asked.below))
            page = await self._agent.scrub.status.page(asked.page, asked.oldest, asked.below)
            return json_response(StatusPage(page.hex()))
        except _NO_ANSWER as error:
            return json_response({"error": "failed", "sentence": str(error) or repr(error)}, 409)

    async def raw(self, request: web.Request) -> web.Response:
        """One page of this node as it lies on its disk; 404 where there is none."""
        asked = await read_json(request, JudgePage)
        if relation_at(asked.path) is None:
            raise web.HTTPBadRequest(text=f"{asked.path!r} is no relation's main fork")
        try:
            page = await self._agent.evidence.page(asked.path, asked.block)
        except OSError as error:
            return json_response({"error": "failed", "sentence": error.strerror or str(error)}, 409)
        if page is None:
            raise web.HTTPNotFound(text=f"block {asked.block} of {asked.path} is not here")
        return web.Response(body=page, content_type="application/octet-stream")

    async def evidence(self, request: web.Request) -> web.Response:
        """What this agent has kept of the faults that it found, as a tar archive."""
        del request
        return web.Response(body=await self._agent.evidence.tar(), content_type="application/x-tar")
