"""GET of one resource under /fhir: Appointments, Slots, Patients, and the resources that they refer to."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from server import context, fhir, permission, store
from server.errors import Refusal
from server.identity import check_id, parse_uuid
from server.link import Link
from server.replay import Answer
from server.responses import etag, fhir_response, stale_header


async def read_appointment(request: web.Request) -> web.StreamResponse:
    """GET /fhir/Appointment/[id]: 200 with ETag, 304 when If-None-Match names it. Proposals are not kept: 404."""
    found = parse_uuid(request.match_info["id"])
    answer = None if found is None else await appointment_row(request, found, context.deadline_s(request))
    if answer is None:
        raise unknown(request)
    row = answer.value
    context.saw(
        request, "vread" if "version" in request.match_info else "read", f"Appointment/{row.id}", row.patient_id
    )
    headers = {"ETag": etag(row.version), **stale_header(answer.stale_s)}
    if request.headers.get("If-None-Match") == etag(row.version):
        return web.Response(status=304, headers=headers)
    return fhir_response(fhir.appointment(row), headers=headers)


async def appointment_row(
    request: web.Request, found: uuid.UUID, until_s: float
) -> Answer[store.AppointmentRow] | None:
    """The appointment, checked against its receipt; None when there is none that this caller may see."""

    async def one(link: Link, deadline_s: float) -> list[Any]:
        began_s = time.monotonic()
        rows = await link.fetch(store.APPOINTMENT, found, deadline_s=deadline_s)
        await check_rows(request, link, rows, began_s, deadline_s, wanted=str(found))
        return rows

    answer = await context.of(request).replay.read(one, until_s)
    row = store.decode_appointment(answer.value[0]["row"]) if answer.value else None
    return Answer(row, answer.stale_s) if row is not None and _may_see(request, row.patient_id) else None


async def read_slot(request: web.Request) -> web.StreamResponse:
    """GET /fhir/Slot/[id] with its state now."""
    until_s = context.deadline_s(request)
    found = parse_uuid(request.match_info["id"])
    if found is None:
        raise unknown(request)

    async def both(link: Any, deadline_s: float) -> list[Any]:
        times = await link.fetch(store.SLOT_TIME, found, deadline_s=deadline_s)
        if not times:
            return []
        bounds = (times[0]["starts_at"], times[0]["ends_at"])
        return list(await link.fetch(store.SLOTS, *bounds, [], found, [], [], None, None, 1, deadline_s=deadline_s))

    answer = await context.of(request).replay.read(both, until_s)
    if not answer.value:
        raise unknown(request)
    return fhir_response(fhir.slot(store.slot_row(answer.value[0])), headers=stale_header(answer.stale_s))


async def read_version(request: web.Request) -> web.StreamResponse:
    """GET /fhir/Appointment/[id]/_history/[vid]: the current version; older ones are not kept, which is a 404 too."""
    response = await read_appointment(request)
    if response.headers.get("ETag") != f'W/"{request.match_info["version"]}"':
        raise unknown(request)
    return response


async def read_referenced(request: web.Request) -> web.StreamResponse:
    """GET /fhir/{Practitioner,Location,Device,Schedule}/[id]."""
    permission.require(request, request.match_info["kind"], "r")
    until_s = context.deadline_s(request)
    sql, shape = REFERENCED[request.match_info["kind"]]
    answer = await context.of(request).replay.read(store.query(sql, [check_id(request.match_info["id"])]), until_s)
    if not answer.value:
        raise unknown(request)
    return fhir_response(shape(answer.value[0]), headers=stale_header(answer.stale_s))


async def read_patient(request: web.Request) -> web.StreamResponse:
    """GET /fhir/Patient/[id]: as far as scheduling knows the patient."""
    until_s = context.deadline_s(request)
    wanted = check_id(request.match_info["id"])
    answer = await context.of(request).replay.read(store.query(store.PATIENTS, [wanted]), until_s)
    if not answer.value or permission.only_patient(request, "Patient", "r") not in (None, wanted):
        raise unknown(request)
    context.saw(request, "read", f"Patient/{wanted}", wanted)
    return fhir_response(fhir.patient(answer.value[0]), headers=stale_header(answer.stale_s))


def _may_see(request: web.Request, patient: str | None) -> bool:
    """Somebody else's appointment is not there for a patient."""
    return permission.only_patient(request, "Appointment", "r") in (None, patient)


async def check_rows(
    request: web.Request,
    link: Link,
    rows: Sequence[Any],
    began_s: float,
    deadline_s: float,
    *,
    wanted: str | None = None,
    actor: tuple[str, str | None] | None = None,
) -> None:
    """Appointments that this link gave for a question which began then, against the receipts, before they are answered. `wanted`:
    the one that was asked for; `actor`: whose a search is. Raises WrongAnswer."""
    guard = context.of(request).guard
    guard.check(link, rows, began_s, wanted=wanted)
    if actor is not None and actor[1] is not None:
        await guard.check_search(link, actor[0], actor[1], rows, deadline_s)


REFERENCED: dict[str, tuple[str, Callable[[Mapping[str, Any]], fhir.Resource]]] = {
    "Practitioner": (store.PRACTITIONERS, fhir.practitioner),
    "PractitionerRole": (store.ROLES, fhir.practitioner_role),
    "HealthcareService": (store.SERVICES, fhir.healthcare_service),
    "Location": (store.LOCATIONS, fhir.location),
    "Organization": (store.ORGANIZATIONS, fhir.organization),
    "Device": (store.DEVICES_OF, fhir.device),
    "Schedule": (store.SCHEDULES, fhir.schedule),
}
"""What appointments and slots refer to: how it is read by ids (none: all), and its shape."""


def unknown(request: web.Request) -> Refusal:
    """What is not there, or not for this caller."""
    name = request.path.removeprefix("/fhir/")[:80]
    return Refusal(404, "not-found", f"there is no {name}")
