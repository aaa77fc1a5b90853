"""GET under /fhir: Appointments and Slots read and searched, and the resources that they refer to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from server import context, fhir, permission, searching, store
from server.errors import Refusal
from server.identity import check_id, parse_uuid
from server.link import Link
from server.responses import base_url, etag, fhir_response, stale_header
from server.scheduling import window_fault

_REFERENCED: dict[str, tuple[str, Callable[[Mapping[str, Any]], fhir.Resource]]] = {
    "Practitioner": (store.PRACTITIONERS, fhir.practitioner),
    "Location": (store.LOCATIONS, fhir.location),
    "Schedule": (store.SCHEDULES, fhir.schedule),
}


async def read_appointment(request: web.Request) -> web.StreamResponse:
    """GET /fhir/Appointment/[id]: 200 with ETag, 304 when If-None-Match names it. Proposals are not kept: 404."""
    until_s = context.deadline_s(request)
    found = parse_uuid(request.match_info["id"])
    if found is None:
        raise _unknown(request)
    statement = _guarded(request, str(found), None, store.APPOINTMENT, found)
    answer = await context.of(request).replay.read(statement, until_s)
    if not answer.value:
        raise _unknown(request)
    row = store.decode_appointment(answer.value[0]["row"])
    if not _may_see(request, row.patient_id):
        raise _unknown(request)
    headers = {"ETag": etag(row.version), **stale_header(answer.stale_s)}
    if request.headers.get("If-None-Match") == etag(row.version):
        return web.Response(status=304, headers=headers)
    return fhir_response(fhir.appointment(row), headers=headers)


async def search_appointments(request: web.Request) -> web.StreamResponse:
    """GET /fhir/Appointment?… (IHE ITI-118)."""
    until_s, query = context.deadline_s(request), request.query
    searching.check_known("Appointment", query)
    part = searching.page(query)
    low, high = searching.bounds(query.getall("date", []))
    patient, practitioner, location = _actors(query)
    own = permission.only_patient(request, "Appointment", "s")
    if own is not None and patient not in (None, own):
        return _bundle(request, [], part, 0, None)
    patient = own or patient
    actor = ("Patient", patient) if patient is not None else ("Practitioner", practitioner)
    statement = _guarded(
        request,
        None,
        actor,
        store.APPOINTMENTS,
        patient,
        practitioner,
        location,
        searching.tokens(query, "status"),
        low,
        high,
        _uuid(query),
        part.count,
        part.offset,
    )
    answer = await context.of(request).replay.read(statement, until_s)
    resources = [fhir.appointment(store.decode_appointment(row["row"])) for row in answer.value]
    return _bundle(request, resources, part, _total(answer.value), answer.stale_s)


async def read_slot(request: web.Request) -> web.StreamResponse:
    """GET /fhir/Slot/[id] with its state now."""
    until_s = context.deadline_s(request)
    found = parse_uuid(request.match_info["id"])
    if found is None:
        raise _unknown(request)

    async def both(link: Any, deadline_s: float) -> list[Any]:
        times = await link.fetch(store.SLOT_TIME, found, deadline_s=deadline_s)
        if not times:
            return []
        bounds = (times[0]["starts_at"], times[0]["ends_at"])
        return list(await link.fetch(store.SLOTS, *bounds, None, found, None, 1, 0, deadline_s=deadline_s))

    answer = await context.of(request).replay.read(both, until_s)
    if not answer.value:
        raise _unknown(request)
    return fhir_response(fhir.slot(store.slot_row(answer.value[0])), headers=stale_header(answer.stale_s))


async def search_slots(request: web.Request) -> web.StreamResponse:
    """GET /fhir/Slot?schedule=…&start=…&status=free|busy|busy-tentative."""
    until_s, query = context.deadline_s(request), request.query
    searching.check_known("Slot", query)
    part = searching.page(query)
    low, high = searching.bounds(query.getall("start", []))
    states = searching.tokens(query, "status")
    if len(states) > 1:
        raise Refusal(400, "not-supported", "status may be given once, with one value")
    low, high = searching.window(low, high, context.now())
    if (fault := window_fault(low, high, context.of(request).rules)) is not None:
        raise Refusal(422, "business-rule", fault)
    statement = store.query(
        store.SLOTS,
        low,
        high,
        searching.reference(query, "schedule", "Schedule"),
        _uuid(query),
        states[0] if states else None,
        part.count,
        part.offset,
    )
    answer = await context.of(request).replay.read(statement, until_s)
    resources = [fhir.slot(store.slot_row(row)) for row in answer.value]
    return _bundle(request, resources, part, _total(answer.value), answer.stale_s)


async def read_referenced(request: web.Request) -> web.StreamResponse:
    """GET /fhir/{Practitioner,Location,Schedule}/[id]."""
    permission.require(request, request.match_info["kind"], "r")
    until_s = context.deadline_s(request)
    sql, shape = _REFERENCED[request.match_info["kind"]]
    answer = await context.of(request).replay.read(store.query(sql, check_id(request.match_info["id"])), until_s)
    if not answer.value:
        raise _unknown(request)
    return fhir_response(shape(answer.value[0]), headers=stale_header(answer.stale_s))


async def search_referenced(request: web.Request) -> web.StreamResponse:
    """GET /fhir/{Practitioner,Location,Schedule}: all of them, or one by _id."""
    until_s, query, kind = context.deadline_s(request), request.query, request.match_info["kind"]
    permission.require(request, kind, "s")
    searching.check_known(kind, query)
    part = searching.page(query)
    sql, shape = _REFERENCED[kind]
    wanted = searching.reference(query, "_id", kind)
    if wanted is None and kind == "Schedule":
        wanted = searching.reference(query, "actor", "Practitioner")
    answer = await context.of(request).replay.read(store.query(sql, wanted), until_s)
    shown = answer.value[part.offset : part.offset + part.count]
    return _bundle(request, [shape(row) for row in shown], part, len(answer.value), answer.stale_s)


async def read_patient(request: web.Request) -> web.StreamResponse:
    """GET /fhir/Patient/[id]: as far as scheduling knows the patient."""
    until_s = context.deadline_s(request)
    wanted = check_id(request.match_info["id"])
    answer = await context.of(request).replay.read(store.query(store.PATIENT, wanted), until_s)
    if not answer.value or permission.only_patient(request, "Patient", "r") not in (None, wanted):
        raise _unknown(request)
    return fhir_response(fhir.patient(answer.value[0]), headers=stale_header(answer.stale_s))


def _may_see(request: web.Request, patient: str | None) -> bool:
    """Somebody else's appointment is not there for a patient."""
    return permission.only_patient(request, "Appointment", "r") in (None, patient)


def _guarded(
    request: web.Request, wanted: str | None, actor: tuple[str, str | None] | None, sql: str, *args: object
) -> Any:
    """A read of appointments whose rows are checked against the receipts before they are answered."""
    guard = context.of(request).guard

    async def run(link: Link, deadline_s: float) -> list[Any]:
        began_s = time.monotonic()
        rows = await link.fetch(sql, *args, deadline_s=deadline_s)
        guard.check(link, rows, began_s, wanted=wanted)
        if actor is not None and actor[1] is not None:
            await guard.check_search(link, actor[0], actor[1], rows, deadline_s)
        return rows

    return run


def _actors(query: Any) -> tuple[str | None, str | None, str | None]:
    """patient, practitioner and location; `actor` is any of them, told apart by its type."""
    found = {
        "Patient": searching.reference(query, "patient", "Patient"),
        "Practitioner": searching.reference(query, "practitioner", "Practitioner"),
        "Location": searching.reference(query, "location", "Location"),
    }
    for value in query.getall("actor", []):
        kind, _, key = value.partition("/")
        if kind not in found or found[kind] is not None:
            raise Refusal(400, "value", "actor must be Patient/ID, Practitioner/ID or Location/ID, each once")
        found[kind] = check_id(key)
    return found["Patient"], found["Practitioner"], found["Location"]


def _uuid(query: Any) -> Any:
    text = query.get("_id")
    if text is None:
        return None
    found = parse_uuid(text)
    # An id that this server never gave matches nothing.
    return found if found is not None else parse_uuid("00000000-0000-0000-0000-000000000000")


def _bundle(
    request: web.Request, resources: list[fhir.Resource], part: searching.Page, total: int, stale_s: int | None
) -> web.Response:
    base, kind = base_url(request), request.path.removeprefix("/fhir/")
    asked = {name: value for name, value in request.query.items() if name not in ("_count", "_offset")}
    links = part.links(f"{base}/{kind}", asked, total)
    return fhir_response(fhir.searchset(base, resources, total=total, links=links), headers=stale_header(stale_s))


def _total(rows: list[Any]) -> int:
    return int(rows[0]["total"]) if rows else 0


def _unknown(request: web.Request) -> Refusal:
    name = request.path.removeprefix("/fhir/")[:80]
    return Refusal(404, "not-found", f"there is no {name}")
