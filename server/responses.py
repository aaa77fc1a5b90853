"""Answers over HTTP: FHIR JSON, OperationOutcome for everything that goes wrong, ETag, Location, Retry-After."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from server import fhir
from server.errors import Alternative, Refusal
from server.store import AppointmentRow

FHIR_JSON = "application/fhir+json"
ISSUE_SYSTEM = "urn:locum:fhir:issue"
ALTERNATIVE = "urn:locum:fhir:alternative"
"""Extension of an issue: valueReference, a proposed Appointment that is free."""
_ISSUES = {400: "structure", 404: "not-found", 405: "not-supported", 413: "too-long", 415: "not-supported"}


def fhir_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A resource as an answer; `value` may be encoded already."""
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return web.Response(body=body, status=status, headers=headers, content_type=FHIR_JSON, charset="utf-8")


def one(request: web.Request, row: AppointmentRow, status: int, stale_s: int | None = None) -> web.Response:
    """One Appointment, as a read gives it."""
    return fhir_response(fhir.appointment(row), status, {"ETag": etag(row.version), **stale_header(stale_s)})


def bundle_of_one(request: web.Request, row: AppointmentRow, status: int) -> web.Response:
    """The Bundle of $hold and $book, with ETag, and Location when something was made."""
    base, resource = base_url(request), fhir.appointment(row)
    headers = {"ETag": etag(row.version)}
    if status == 201:
        headers["Location"] = f"{base}/Appointment/{row.id}"
    return fhir_response(fhir.searchset(base, [resource], total=1), status, headers)


def refused(refusal: Refusal) -> web.Response:
    """A refusal as a bare OperationOutcome (IHE puts it into a Bundle: a declared deviation)."""
    headers = {} if refusal.retry_after_s is None else {"Retry-After": str(refusal.retry_after_s)}
    if refusal.challenge is not None:
        headers["WWW-Authenticate"] = refusal.challenge
    detail = refusal.detail or refusal.issue
    made = outcome(refusal.issue, refusal.sentence, detail=detail, expression=refusal.expression)
    made["issue"] += [_offered(one) for one in refusal.alternatives]
    return fhir_response(made, refusal.status, headers)


def _offered(alternative: Alternative) -> fhir.Resource:
    """A free time, as an issue that is no error: its extension resolves in $hold and $book."""
    return {
        "extension": [{"url": ALTERNATIVE, "valueReference": {"reference": alternative.reference}}],
        "severity": "information",
        "code": "informational",
        "details": {"coding": [{"system": ISSUE_SYSTEM, "code": "alternative"}], "text": alternative.sentence},
        "diagnostics": f"{alternative.reference}: {alternative.sentence}",
    }


def refused_by_http(error: web.HTTPException) -> web.Response:
    """What aiohttp itself refuses (unknown path, wrong method, body too large), as an OperationOutcome."""
    sentence = {
        404: "there is nothing at this path; GET /fhir/metadata says what there is",
        405: "this path does not take that method",
        413: "the body is too large",
    }.get(error.status, error.reason)
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    return fhir_response(outcome(_ISSUES.get(error.status, "processing"), sentence), error.status, headers)


def outcome(issue: str, sentence: str, *, detail: str | None = None, expression: str | None = None) -> fhir.Resource:
    """An OperationOutcome with one issue; `detail` is Locum's own word, `expression` points at the element (FHIRPath)."""
    found: dict[str, Any] = {
        "severity": "error",
        "code": issue,
        "details": {"coding": [{"system": ISSUE_SYSTEM, "code": detail or issue}], "text": sentence},
        "diagnostics": sentence,
    }
    if expression is not None:
        found["expression"] = [expression]
    return {"resourceType": "OperationOutcome", "issue": [found]}


def etag(version: int) -> str:
    """A weak ETag (FHIR R4, http.html#versioning)."""
    return f'W/"{version}"'


def stale_header(stale_s: int | None) -> dict[str, str]:
    """X-Locum-Stale: only on answers of a standby."""
    return {} if stale_s is None else {"X-Locum-Stale": str(stale_s)}


def base_url(request: web.Request) -> str:
    """The server's own URL as this client wrote it, ending in /fhir."""
    return f"{request.scheme}://{request.host}/fhir"
