"""What this server says of itself: GET /fhir/metadata and GET /openapi.json. Made from what the routes really take."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from aiohttp import web

from replication.wire.http import json_response
from server.responses import FHIR_JSON, fhir_response
from server.searching import SEARCHES

_IHE = "https://profiles.ihe.net/ITI/Scheduling/OperationDefinition/appointment-"
_DATE = "2026-01-01"
_TYPES = {
    "_id": "token",
    "status": "token",
    "date": "date",
    "start": "date",
}
_OPERATIONS = {
    "find": "Free slots between start and end as proposed Appointments (ITI-115)",
    "hold": "Keep a proposal's slot for five minutes: a pending Appointment (ITI-116)",
    "book": "Book a proposal or a hold; change or cancel an appointment by its resource (ITI-117)",
}
_DEVIATIONS = (
    "JSON only: application/fhir+xml is not supported. Errors are a bare OperationOutcome with a 4xx or 5xx status, not "
    "a Bundle. While there is no primary database, reads may be stale: the header X-Locum-Stale says by how many seconds."
)


async def metadata(request: web.Request) -> web.StreamResponse:
    """The CapabilityStatement."""
    del request
    return fhir_response(capability_statement())


async def openapi(request: web.Request) -> web.StreamResponse:
    """The OpenAPI 3.1 description."""
    return json_response(describe(f"{request.scheme}://{request.host}"))


def capability_statement() -> dict[str, Any]:
    """FHIR R4 capabilitystatement.html."""
    resources = [_resource(kind) for kind in SEARCHES]
    resources.append({"type": "Patient", "interaction": [{"code": "read"}], "versioning": "no-version"})
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": _DATE,
        "kind": "instance",
        "software": {"name": "Locum", "version": _version()},
        "implementation": {"description": _DEVIATIONS},
        "fhirVersion": "4.0.1",
        "format": ["json", FHIR_JSON],
        "instantiates": ["https://profiles.ihe.net/ITI/Scheduling/CapabilityStatement/IHE.Scheduling.server"],
        "rest": [{"mode": "server", "documentation": _DEVIATIONS, "resource": resources}],
    }


def describe(server: str) -> dict[str, Any]:
    """OpenAPI 3.1.0 of every route."""
    paths: dict[str, Any] = {}
    for name, summary in _OPERATIONS.items():
        paths[f"/fhir/Appointment/${name}"] = {"post": _operation(name, summary)}
    for kind, known in SEARCHES.items():
        paths[f"/fhir/{kind}"] = {
            "get": _get(f"Search {kind}", [_query(name) for name in (*known, "_count", "_cursor")])
        }
    for kind in (*SEARCHES, "Patient"):
        paths[f"/fhir/{kind}/{{id}}"] = {"get": _get(f"Read one {kind}", [_path_id()], {"404": _refusal()})}
    paths["/fhir/metadata"] = {"get": _get("The CapabilityStatement", [])}
    for path, summary in (
        ("/livez", "Whether the process lives; never asks the database"),
        ("/readyz", "Whether bookings work: 200 or 503"),
        ("/metrics", "Prometheus metrics"),
        ("/openapi.json", "This description"),
    ):
        paths[path] = {"get": {"summary": summary, "responses": {"200": {"description": "As the summary says"}}}}
    paths["/readyz"]["get"]["responses"]["503"] = {"description": "No bookings now"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Locum", "version": _version(), "license": {"name": "Apache-2.0"}},
        "servers": [{"url": server}],
        "paths": paths,
        "components": {"schemas": _schemas()},
    }


def _resource(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": kind,
        "interaction": [{"code": "read"}, {"code": "search-type"}],
        "versioning": "versioned" if kind == "Appointment" else "no-version",
        "searchParam": [{"name": name, "type": _TYPES.get(name, "reference")} for name in SEARCHES[kind]],
    }
    if kind == "Appointment":
        found["operation"] = [{"name": name, "definition": _IHE + name} for name in _OPERATIONS]
    return found


def _operation(name: str, summary: str) -> dict[str, Any]:
    answers: dict[str, Any] = {"200": _resource_answer("Bundle")}
    parameters: list[dict[str, Any]] = []
    if name != "find":
        key = {"type": "string", "maxLength": 257}
        parameters = [{"name": "Idempotency-Key", "in": "header", "required": False, "schema": key}]
        answers = {"201": _resource_answer("Bundle"), "409": _refusal()}
    if name == "book":
        parameters.append({"name": "If-Match", "in": "header", "required": False, "schema": {"type": "string"}})
        answers |= {"200": _resource_answer("Bundle"), "412": _refusal()}
    answers |= {code: _refusal() for code in ("400", "404", "406", "413", "415", "422", "503")}
    content = {FHIR_JSON: {"schema": {"$ref": "#/components/schemas/Parameters"}}}
    return {
        "summary": summary,
        "parameters": parameters,
        "requestBody": {"required": True, "content": content},
        "responses": answers,
    }


def _get(summary: str, parameters: list[dict[str, Any]], more: dict[str, Any] | None = None) -> dict[str, Any]:
    answers = {"200": _resource_answer("a resource"), **{code: _refusal() for code in ("400", "406", "503")}}
    return {"summary": summary, "parameters": parameters, "responses": {**answers, **(more or {})}}


def _query(name: str) -> dict[str, Any]:
    kind = "integer" if name == "_count" else "string"
    return {"name": name, "in": "query", "required": False, "schema": {"type": kind}}


def _path_id() -> dict[str, Any]:
    return {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "maxLength": 64}}


def _resource_answer(what: str) -> dict[str, Any]:
    return {"description": what, "content": {FHIR_JSON: {"schema": {"type": "object"}}}}


def _refusal() -> dict[str, Any]:
    content = {FHIR_JSON: {"schema": {"$ref": "#/components/schemas/OperationOutcome"}}}
    return {"description": "Why not", "content": content}


def _schemas() -> dict[str, Any]:
    resource_type = {"type": "string"}
    parameter = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    return {
        "Parameters": {
            "type": "object",
            "required": ["resourceType"],
            "properties": {
                "resourceType": {"const": "Parameters"},
                "parameter": {"type": "array", "items": parameter},
            },
        },
        "OperationOutcome": {
            "type": "object",
            "required": ["resourceType", "issue"],
            "properties": {"resourceType": resource_type, "issue": {"type": "array", "minItems": 1}},
        },
    }


def _version() -> str:
    try:
        return version("locum")
    except PackageNotFoundError:
        return "0"
