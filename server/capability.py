"""What this server says of itself in FHIR: GET /fhir/metadata, made from what the routes really take."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from aiohttp import web

from server.responses import FHIR_JSON, fhir_response
from server.searching import INCLUDES, SEARCHES

_IHE = "https://profiles.ihe.net/ITI/Scheduling/OperationDefinition/appointment-"
_DATE = "2026-01-01"
_TYPES = {
    "_id": "token",
    "status": "token",
    "date": "date",
    "start": "date",
    "action": "token",
    "agent": "token",
    "service-type": "token",
    "specialty": "token",
}
OPERATIONS = {
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


def capability_statement() -> dict[str, Any]:
    """FHIR R4 capabilitystatement.html."""
    resources = [_resource(kind) for kind in SEARCHES]
    made = {
        "interaction": [{"code": "read"}, {"code": "create"}],
        "versioning": "no-version",
        "conditionalCreate": True,
    }
    resources.append({"type": "Patient", **made})
    resources.append({"type": "AppointmentResponse", "interaction": [{"code": "create"}], "versioning": "no-version"})
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": _DATE,
        "kind": "instance",
        "software": {"name": "Locum", "version": version_of_locum()},
        "implementation": {"description": _DEVIATIONS},
        "fhirVersion": "4.0.1",
        "format": ["json", FHIR_JSON],
        "instantiates": ["https://profiles.ihe.net/ITI/Scheduling/CapabilityStatement/IHE.Scheduling.server"],
        "rest": [{"mode": "server", "documentation": _DEVIATIONS, "resource": resources}],
    }


def _resource(kind: str) -> dict[str, Any]:
    versioned = [{"code": "vread"}] if kind == "Appointment" else []
    words = [name for name in SEARCHES[kind] if name not in ("_sort", "_include")]
    found: dict[str, Any] = {
        "type": kind,
        "interaction": [{"code": "read"}, *versioned, {"code": "search-type"}],
        "versioning": "versioned" if kind == "Appointment" else "no-version",
        "searchParam": [{"name": name, "type": _TYPES.get(name, "reference")} for name in words],
        **({"searchInclude": sorted(INCLUDES[kind])} if kind in INCLUDES else {}),
    }
    if kind == "Appointment":
        found["operation"] = [{"name": name, "definition": _IHE + name} for name in OPERATIONS]
    return found


def version_of_locum() -> str:
    """Of the installed package; 0 for a clone that is not installed."""
    try:
        return version("locum")
    except PackageNotFoundError:
        return "0"
