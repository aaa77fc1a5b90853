"""What the routes share, and what each request starts with."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from server.audit import Audit
from server.database import Database
from server.errors import Refusal
from server.guard import Guard
from server.idempotency import InFlight
from server.metrics import Metrics
from server.permission import ACCESS
from server.receipts import Receipts
from server.replay import Replay
from server.scheduling import Rules
from server.settings import ServerSettings


class Context(msgspec.Struct, frozen=True):
    """The parts of one server, made in app.py."""

    settings: ServerSettings
    rules: Rules
    database: Database
    replay: Replay
    in_flight: InFlight
    metrics: Metrics
    receipts: Receipts
    guard: Guard
    audit: Audit


KEY: web.AppKey[Context] = web.AppKey("context", Context)


def of(request: web.Request) -> Context:
    """The context of the application that serves this request."""
    return request.config_dict[KEY]


def deadline_s(request: web.Request) -> float:
    """Until when (time.monotonic) this request must be answered."""
    return time.monotonic() + of(request).settings.request_deadline_ms / 1000


async def body(request: web.Request, until_s: float) -> bytes:
    """The whole body. Raises Refusal 408 when it does not come by `until_s`, and 413 when it is too large."""
    if request.content.is_eof():  # it came with the headers, as nearly all do: there is nothing to wait for
        return await request.read()
    try:
        async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
            return await request.read()
    except TimeoutError:
        raise Refusal(408, "timeout", "the body of the request did not come in time") from None


def caller(request: web.Request) -> str:
    """Who asks, for the audit: a word without patient data."""
    return request[ACCESS].caller


def saw(request: web.Request, operation: str, entity: str, patient: str | None) -> None:
    """Note that this caller was shown something, for the audit."""
    of(request).audit.note(caller(request), operation, entity, patient)


def now() -> datetime:
    """The wall clock, aware."""
    return datetime.now(UTC)
