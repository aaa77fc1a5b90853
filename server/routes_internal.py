"""/internal: what Locum's own processes ask of a server; every call needs the token."""

from __future__ import annotations

import time

import msgspec
from aiohttp import web

from replication.wire.errors import BadBody
from replication.wire.http import has_token, json_response, no_token, read_json
from server.database import Database
from server.errors import NoConnection
from server.receipt_check import ReceiptChecker
from server.siblings import Siblings

_CHECK_DEADLINE_S = 60.0


class CheckWanted(msgspec.Struct, frozen=True):
    """Body of POST /internal/receipts/check."""

    expected_term: int


def add(app: web.Application, token: str, database: Database, siblings: Siblings, checker: ReceiptChecker) -> None:
    """Register the routes."""

    async def show(request: web.Request) -> web.StreamResponse:
        if not has_token(request, token):
            return no_token()
        try:
            return json_response({"receipts": await siblings.all()})
        except OSError as error:
            sentence = f"receipts of this host cannot be read: {error.strerror}"
            return json_response({"error": "unreadable", "sentence": sentence}, 503, {"Retry-After": "2"})

    async def check(request: web.Request) -> web.StreamResponse:
        if not has_token(request, token):
            return no_token()
        try:
            wanted = await read_json(request, CheckWanted)
        except BadBody as error:
            return json_response({"error": "bad_request", "sentence": str(error)}, 400)
        term = database.topology.term if database.topology is not None else 0
        if wanted.expected_term != term:
            return json_response({"error": "wrong_term", "sentence": f"the term is {term} here"}, 409)
        try:
            found = await checker.ask(time.monotonic() + _CHECK_DEADLINE_S)
        except NoConnection as error:
            return json_response({"error": "not_checked", "sentence": str(error)}, 503, {"Retry-After": "2"})
        return json_response(found)

    app.router.add_get("/internal/receipts", show)
    app.router.add_post("/internal/receipts/check", check)
