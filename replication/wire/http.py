"""JSON over HTTP, both sides: answers, bodies, the token check, and calls with a deadline."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping
from typing import Any, TypeVar

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from replication.wire.errors import BadBody, WireError

T = TypeVar("T")

_GUARDED = ("/v1/", "/internal/")
_READS = ("GET", "HEAD", "OPTIONS")


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Any msgspec-encodable value as an answer."""
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        headers=headers,
        content_type="application/json",
        charset="utf-8",
    )


async def read_json(request: web.Request, type_: type[T]) -> T:
    """The request's body as `type_`. Raises BadBody when it is not JSON, or not of that shape."""
    body = await request.read()
    try:
        return msgspec.json.decode(body or b"{}", type=type_)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise BadBody(f"the body is not what {request.method} {request.path} takes: {error}") from error


def has_token(request: web.Request, token: str) -> bool:
    """It carries `Authorization: Bearer <token>`; compared in constant time."""
    given = request.headers.get("Authorization", "").encode()
    return hmac.compare_digest(given, f"Bearer {token}".encode())


def no_token() -> web.Response:
    """The answer to who has no token."""
    sentence = "this needs the header Authorization: Bearer TOKEN, with the token of the token file"
    return json_response({"error": "unauthorized", "sentence": sentence}, 401, {"WWW-Authenticate": "Bearer"})


def token_guard(token: str) -> Middleware:
    """Let nothing but reads under /v1/ and /internal/ pass without `Authorization: Bearer <token>` (RFC 6750)."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in _READS and request.path.startswith(_GUARDED) and not has_token(request, token):
            return no_token()
        return await handler(request)

    return guard


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn errors of HTTP and of bodies into `{"error": word, "sentence": …}`; aiohttp logs any other, as a 500."""
    try:
        return await handler(request)
    except BadBody as error:
        return json_response({"error": "bad_request", "sentence": str(error)}, 400)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        word = error.reason.lower().replace(" ", "_")
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return json_response({"error": word, "sentence": error.text or error.reason}, error.status, headers)


def new_session() -> aiohttp.ClientSession:
    """A client for Locum's own processes: keep-alive, no cookies, no proxy, no time-out of its own."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
        trust_env=False,
    )


async def get_bytes(
    session: aiohttp.ClientSession, url: str, *, deadline_ms: int, token: str | None = None
) -> tuple[int, bytes]:
    """GET: status and body. Raises WireError."""
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    return await _call(session, "GET", url, None, headers, deadline_ms)


async def post_json(
    session: aiohttp.ClientSession, url: str, value: Any, *, token: str | None, deadline_ms: int
) -> tuple[int, bytes]:
    """POST a msgspec-encodable value: status and body. Raises WireError."""
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return await _call(session, "POST", url, msgspec.json.encode(value), headers, deadline_ms)


async def _call(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    body: bytes | None,
    headers: Mapping[str, str],
    deadline_ms: int,
) -> tuple[int, bytes]:
    try:
        async with (
            asyncio.timeout(deadline_ms / 1000),
            session.request(method, url, data=body, headers=headers) as answer,
        ):
            return answer.status, await answer.read()
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise wire_error(error, url) from error


def wire_error(error: BaseException, url: str) -> WireError:
    """A client's error as a WireError that tells a refused connection from silence."""
    if isinstance(error, TimeoutError):
        return WireError(f"no answer from {url} within the deadline", "timeout")
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, ConnectionRefusedError):
        return WireError(f"nobody listens at {url}", "refused")
    return WireError(f"{url} could not be asked: {error!r}", "error")
