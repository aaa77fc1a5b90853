"""GET /openapi.json: what every route takes and answers, made from what the routes really take (OpenAPI 3.1.0)."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from replication.wire.http import json_response
from server import context
from server.capability import OPERATIONS, version_of_locum
from server.responses import FHIR_JSON
from server.routes_key import KEPT_HOURS
from server.searching import SEARCHES

_FORM = "application/x-www-form-urlencoded"
_ALWAYS = ("406", "429", "503")
_ID = r"^[A-Za-z0-9\-.]{1,64}$"


async def openapi(request: web.Request) -> web.StreamResponse:
    """The description."""
    is_guarded = context.of(request).settings.auth is not None
    return json_response(describe(f"{request.scheme}://{request.host}", is_guarded=is_guarded))


def describe(server: str, *, is_guarded: bool = False) -> dict[str, Any]:
    """OpenAPI 3.1.0 of every route."""
    paths: dict[str, Any] = {
        f"/fhir/Appointment/${name}": {"post": _operation(name, summary)} for name, summary in OPERATIONS.items()
    }
    for kind, known in SEARCHES.items():
        words = (*known, "_count", "_cursor")
        search = _answers("Bundle", "400", *(("422",) if kind == "Slot" else ()))
        paths[f"/fhir/{kind}"] = {
            "get": {"summary": f"Search {kind}", "parameters": [_query(word) for word in words], **search}
        }
        form = {"type": "object", "properties": {word: _word(word) for word in words}}
        paths[f"/fhir/{kind}/_search"] = {
            "post": {
                "summary": f"Search {kind} by a form",
                "requestBody": {"required": False, "content": {_FORM: {"schema": form}}},
                **_answers("Bundle", "400", "413", "415", *(("422",) if kind == "Slot" else ())),
            }
        }
    for kind in (*SEARCHES, "Patient"):
        paths[f"/fhir/{kind}/{{id}}"] = {
            "get": {
                "summary": f"Read one {kind}",
                "parameters": [_path("id", _ID)],
                **_answers(kind, "304", "400", "404"),
            }
        }
    paths["/fhir/Appointment/{id}/_history/{version}"] = {
        "get": {
            "summary": "Read one version of an Appointment: the current one is kept",
            "parameters": [_path("id", _ID), _path("version", r"^[0-9]{1,8}$")],
            **_answers("Appointment", "304", "400", "404"),
        }
    }
    paths["/fhir/Patient"] = {"post": _new_patient()}
    paths["/fhir/AppointmentResponse"] = {"post": _response()}
    paths["/fhir/metadata"] = {
        "get": {"summary": "The CapabilityStatement", "security": [], **_answers("CapabilityStatement")}
    }
    paths["/idempotency/{key}"] = {"get": _kept_answer()}
    paths |= {path: {"get": _plain(summary)} for path, summary in _PLAIN.items()}
    paths["/readyz"]["get"]["responses"]["503"] = {"description": "No bookings now"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Locum",
            "version": version_of_locum(),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server}],
        "paths": paths,
        **({"security": [{"bearer": []}]} if is_guarded else {}),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


_PLAIN = {
    "/livez": "Whether the process lives; never asks the database",
    "/readyz": "Whether bookings work: 200 or 503",
    "/metrics": "Prometheus metrics",
    "/openapi.json": "This description",
}


def _operation(name: str, summary: str) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = []
    codes = ["400", "404", "408", "413", "415", "422"]
    if name != "find":
        parameters = [_key_header()]
        codes += ["403", "409"]
    if name == "book":
        parameters.append({"name": "If-Match", "in": "header", "required": False, "schema": {"type": "string"}})
        codes.append("412")
    answers = _answers("Bundle", *codes)
    if name != "find":
        answers["responses"]["201"] = _resource_answer("Bundle")
    if name == "hold":
        answers["responses"].pop("200")
    content = {FHIR_JSON: {"schema": {"$ref": "#/components/schemas/Parameters"}}}
    return {
        "summary": summary,
        "parameters": parameters,
        "requestBody": {"required": True, "content": content},
        **answers,
    }


def _new_patient() -> dict[str, Any]:
    header = {
        "name": "If-None-Exist",
        "in": "header",
        "required": False,
        "schema": {"type": "string", "pattern": "^_id="},
    }
    answers = _answers("Patient", "400", "403", "408", "413", "415", "422")
    answers["responses"]["201"] = _resource_answer("Patient")
    content = {FHIR_JSON: {"schema": {"$ref": "#/components/schemas/Patient"}}}
    return {
        "summary": "Make a Patient",
        "parameters": [header],
        "requestBody": {"required": True, "content": content},
        **answers,
    }


def _response() -> dict[str, Any]:
    answers = _answers("AppointmentResponse", "400", "403", "404", "408", "409", "413", "415", "422")
    answers["responses"]["201"] = answers["responses"].pop("200")
    return {
        "summary": "Accept an appointment, or decline it, which cancels it",
        "parameters": [_key_header()],
        "requestBody": {
            "required": True,
            "content": {FHIR_JSON: {"schema": {"$ref": "#/components/schemas/AppointmentResponse"}}},
        },
        **answers,
    }


def _kept_answer() -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": ["status", "expires_at", "body"],
        "properties": {"status": {"type": "integer"}, "expires_at": {"type": "string"}, "body": {"type": "object"}},
    }
    return {
        "summary": f"What was answered under an Idempotency-Key, which is remembered for {KEPT_HOURS} hours",
        "parameters": [_path("key", "^[ -~]{1,255}$")],
        "responses": {
            "200": {"description": "The answer, as it was given", "content": {"application/json": {"schema": schema}}},
            **{code: _refusal() for code in ("400", "401", "403", "404", "429", "503")},
        },
    }


def _key_header() -> dict[str, Any]:
    return {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": f"The same key and body get the same answer, for {KEPT_HOURS} hours after its last use",
        "schema": {"type": "string", "maxLength": 257},
    }


def _answers(what: str, *codes: str) -> dict[str, Any]:
    refused = {code: _refusal() for code in (*codes, *_ALWAYS, "401", "403") if code != "304"}
    unchanged = {"304": {"description": "As If-None-Match says"}} if "304" in codes else {}
    return {"responses": {"200": _resource_answer(what), **unchanged, **refused}}


def _plain(summary: str) -> dict[str, Any]:
    return {"summary": summary, "security": [], "responses": {"200": {"description": "As the summary says"}}}


def _query(name: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": _word(name)}


def _word(name: str) -> dict[str, Any]:
    return {"type": "integer", "minimum": 0, "maximum": 1000} if name == "_count" else {"type": "string"}


def _path(name: str, pattern: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": pattern}}


def _resource_answer(kind: str) -> dict[str, Any]:
    schema = {"type": "object", "required": ["resourceType"], "properties": {"resourceType": {"const": kind}}}
    return {"description": f"A {kind}", "content": {FHIR_JSON: {"schema": schema}}}


def _refusal() -> dict[str, Any]:
    content = {FHIR_JSON: {"schema": {"$ref": "#/components/schemas/OperationOutcome"}}}
    return {"description": "Why not", "content": content}


def _schemas() -> dict[str, Any]:
    parameter = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    return {
        "Parameters": {
            "type": "object",
            "required": ["resourceType"],
            "properties": {"resourceType": {"const": "Parameters"}, "parameter": {"type": "array", "items": parameter}},
        },
        "Patient": {
            "type": "object",
            "required": ["resourceType"],
            "properties": {"resourceType": {"const": "Patient"}, "id": {"type": "string", "pattern": _ID}},
        },
        "AppointmentResponse": {
            "type": "object",
            "required": ["resourceType", "appointment", "actor", "participantStatus"],
            "properties": {
                "resourceType": {"const": "AppointmentResponse"},
                "participantStatus": {"enum": ["accepted", "declined", "tentative", "needs-action"]},
            },
        },
        "OperationOutcome": {
            "type": "object",
            "required": ["resourceType", "issue"],
            "properties": {"resourceType": {"const": "OperationOutcome"}, "issue": {"type": "array", "minItems": 1}},
        },
    }
