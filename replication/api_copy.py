"""The agent's HTTP interface for a copy of its node by differences (docs/PROTOCOL.md); every call needs the token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from replication.difference.protocol import AskPages, BeginCopy
from replication.errors import SQL_ERRORS, ActionFailed
from replication.wire.http import json_response, read_json

if TYPE_CHECKING:
    from replication.agent import Agent

_NO_ANSWER: tuple[type[Exception], ...] = (ActionFailed, *SQL_ERRORS)


class AskFile(msgspec.Struct, frozen=True):
    """A file of the copy, or a segment of WAL."""

    path: str


class CopyApi:
    """Answers 409 with the reason when something cannot be given, 404 for a file that is not there."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def routes(self) -> list[web.RouteDef]:
        """For the agent's application."""
        return [
            web.post("/v1/copy/begin", self.begin),
            web.post("/v1/copy/pages", self.pages),
            web.post("/v1/copy/file", self.file),
            web.post("/v1/copy/wal", self.wal),
            web.post("/v1/copy/end", self.end),
        ]

    async def begin(self, request: web.Request) -> web.Response:
        """Begin a backup and list what it holds."""
        asked = await read_json(request, BeginCopy)
        try:
            return json_response(await self._agent.copies.begin(asked))
        except _NO_ANSWER as error:
            return _refused(error)

    async def pages(self, request: web.Request) -> web.Response:
        """Hashes of pages, or the pages."""
        asked = await read_json(request, AskPages)
        try:
            return _bytes(await self._agent.copies.pages(asked))
        except _NO_ANSWER as error:
            return _refused(error)

    async def file(self, request: web.Request) -> web.Response:
        """A file that is no relation's, whole."""
        asked = await read_json(request, AskFile)
        try:
            return _bytes(await self._agent.copies.file(asked.path))
        except FileNotFoundError as error:
            raise web.HTTPNotFound(text=f"{asked.path} is not here") from error
        except _NO_ANSWER as error:
            return _refused(error)

    async def wal(self, request: web.Request) -> web.Response:
        """A segment of WAL."""
        asked = await read_json(request, AskFile)
        try:
            return _bytes(await self._agent.copies.wal(asked.path))
        except FileNotFoundError as error:
            raise web.HTTPNotFound(text=f"{asked.path} is not here") from error
        except _NO_ANSWER as error:
            return _refused(error)

    async def end(self, request: web.Request) -> web.Response:
        """End the backup: its label, and the WAL that it needs."""
        del request
        try:
            return json_response(await self._agent.copies.end())
        except _NO_ANSWER as error:
            return _refused(error)


def _bytes(data: bytes) -> web.Response:
    return web.Response(body=data, content_type="application/octet-stream")


def _refused(error: Exception) -> web.Response:
    return json_response({"error": "failed", "sentence": str(error) or repr(error)}, 409)
