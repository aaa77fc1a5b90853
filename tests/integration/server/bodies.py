"""FHIR requests as frontends send them, and what is read in the answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

Json = dict[str, Any]


def parameters(*items: Json) -> Json:
    """A Parameters resource."""
    return {"resourceType": "Parameters", "parameter": list(items)}


def find_body(start: datetime, end: datetime, *, count: int | None = None, **more: str) -> Json:
    """Parameters of $find; `more`: parameter name (with _ for -) → reference."""
    items: list[Json] = [
        {"name": "start", "valueDateTime": start.isoformat()},
        {"name": "end", "valueDateTime": end.isoformat()},
    ]
    if count is not None:
        items.append({"name": "_count", "valueInteger": count})
    for name, reference in more.items():
        items.append({"name": name.replace("_", "-"), "valueReference": {"reference": reference}})
    return parameters(*items)


def by_reference(appointment: str, *more: Json) -> Json:
    """Parameters that name an appointment or a proposal."""
    return parameters(
        {"name": "appointment-reference", "valueReference": {"reference": f"Appointment/{appointment}"}}, *more
    )


def patient(key: str) -> Json:
    """The parameter that names the patient."""
    return {"name": "patient-resource", "resource": {"resourceType": "Patient", "id": key}}


def book_body(appointment: str, who: str) -> Json:
    """Parameters of $book for a proposal or a hold."""
    return by_reference(appointment, patient(who))


def by_resource(appointment: Json, **changed: Any) -> Json:
    """Parameters that change or cancel by the resource."""
    return parameters({"name": "appointment-resource", "resource": {**appointment, **changed}})


def only(bundle: Json) -> Json:
    """The one Appointment of a Bundle."""
    (entry,) = bundle["entry"]
    found: Json = entry["resource"]
    return found


def word(outcome: Json) -> str:
    """Locum's own word in an OperationOutcome."""
    assert outcome["resourceType"] == "OperationOutcome", outcome
    return str(outcome["issue"][0]["details"]["coding"][0]["code"])
