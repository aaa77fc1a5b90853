"""What holds for every request: CORS, the formats, errors as OperationOutcome under /fhir, measurements."""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from replication.wire.http import json_response
from server.errors import Refusal
from server.identity import ANONYMOUS
from server.limits import RateLimit
from server.metrics import Metrics
from server.permission import ACCESS
from server.responses import fhir_response, outcome, refused, refused_by_http

_log = structlog.get_logger()

_EXPOSED = "ETag, Location, Retry-After, RateLimit, X-Locum-Stale"
_ALLOWED_HEADERS = "Accept, Authorization, Content-Type, Idempotency-Key, If-Match, Prefer"
_ALLOWED_METHODS = "GET, HEAD, POST, OPTIONS"
_PREFLIGHT_S = "600"
_JSON = ("application/fhir+json", "application/json", "text/json", "*/*", "application/*")
_FORM = "application/x-www-form-urlencoded"
_BODIES = ("application/fhir+json", "application/json")


def measured(metrics: Metrics) -> Middleware:
    """Count and time each request by its route, never by its path."""

    @web.middleware
    async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
        began_s = time.monotonic()
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "none"
        response = await handler(request)
        metrics.seconds.labels(route).observe(time.monotonic() - began_s)
        metrics.requests.labels(route, request.method, str(response.status)).inc()
        return response

    return measure


def limited(limit: RateLimit | None) -> Middleware:
    """At most so many requests by each caller: 429 with Retry-After, and the RateLimit headers on every answer."""

    @web.middleware
    async def limit_rate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if limit is None or not request.path.startswith(("/fhir/", "/idempotency/")):
            return await handler(request)
        caller = request[ACCESS].caller
        verdict = limit.take(str(request.remote) if caller == ANONYMOUS else caller)
        headers = {"RateLimit": f'"default";r={verdict.left};t={verdict.reset_s}', "RateLimit-Policy": limit.policy}
        if not verdict.is_allowed:
            refusal = Refusal(
                429, "throttled", "too many requests of this caller", retry_after_s=max(1, verdict.reset_s)
            )
            response: web.StreamResponse = refused(refusal)
        else:
            try:
                response = await handler(request)
            except Refusal as refusal:
                response = refused(refusal)
        response.headers.update(headers)
        return response

    return limit_rate


def cors(origins: Sequence[str]) -> Middleware:
    """Browsers of these origins may call (`*`: any); the others get no CORS header (https://fetch.spec.whatwg.org)."""

    @web.middleware
    async def share(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        allowed = origin is not None and ("*" in origins or origin in origins)
        preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        response = web.Response(status=204) if preflight and allowed else await handler(request)
        if origins:
            response.headers.add("Vary", "Origin")
        if allowed and origin is not None:
            response.headers["Access-Control-Allow-Origin"] = "*" if "*" in origins else origin
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED
            if preflight:
                response.headers["Access-Control-Allow-Methods"] = _ALLOWED_METHODS
                response.headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
                response.headers["Access-Control-Max-Age"] = _PREFLIGHT_S
        return response

    return share


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error has a body that a program can read: OperationOutcome under /fhir, plain JSON elsewhere."""
    fhir = request.path == "/fhir" or request.path.startswith(("/fhir/", "/idempotency/"))
    try:
        return await handler(request)
    except Refusal as refusal:
        return refused(refusal)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        if fhir:
            return refused_by_http(error)
        word = error.reason.lower().replace(" ", "_")
        return json_response({"error": word, "sentence": error.reason}, error.status)
    except Exception:  # noqa: BLE001  the outermost frame of a request: logged, and the client is told that it is ours
        _log.exception("server.request_crashed", route=request.path.split("?")[0] if not fhir else "fhir")
        sentence = "the server failed; its log says why. Nothing is known of the outcome: repeat with the same key"
        if fhir:
            return fhir_response(outcome("exception", sentence), 500)
        return json_response({"error": "internal_server_error", "sentence": sentence}, 500)


@web.middleware
async def formats(request: web.Request, handler: Handler) -> web.StreamResponse:
    """JSON only: XML is declared as not supported. Raises Refusal 406 and 415."""
    if request.path.startswith("/fhir/"):
        _check_accept(request)
        if request.method == "POST":
            _check_body(request, *((_FORM,) if request.path.endswith("/_search") else _BODIES))
    return await handler(request)


def _check_accept(request: web.Request) -> None:
    wanted = request.query.get("_format")
    if wanted is not None:
        if "json" not in wanted:
            raise Refusal(406, "not-supported", f"_format {wanted[:40]!r} is not supported: only application/fhir+json")
        return
    accept = request.headers.get("Accept", "*/*")
    ranges = [part.split(";")[0].strip().lower() for part in accept.split(",")]
    if not any(item in _JSON or not item for item in ranges):
        raise Refusal(406, "not-supported", "only application/fhir+json is answered here")


def _check_body(request: web.Request, *kinds: str) -> None:
    if request.content_length is not None and request.content_length > request.client_max_size:
        raise Refusal(413, "too-long", f"a body of more than {request.client_max_size} bytes is not taken")
    if request.content_type not in kinds or "Content-Type" not in request.headers:
        raise Refusal(415, "not-supported", f"send the header Content-Type: {kinds[0]}")
    if (request.charset or "utf-8").lower().replace("_", "-") not in ("utf-8", "utf8", "us-ascii"):
        raise Refusal(415, "not-supported", "FHIR JSON is UTF-8")
