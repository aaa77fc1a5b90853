"""Searches under /fhir, by GET and by POST to _search (IHE ITI-118 for Appointments)."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web
from multidict import MultiDict, MultiMapping

from server import context, fhir, permission, searching, store
from server.errors import Refusal
from server.identity import check_id, parse_uuid
from server.link import Link
from server.responses import base_url, fhir_response, stale_header
from server.routes_read import REFERENCED, check_rows
from server.scheduling import window_fault
from server.searching import Key, Page

_NOBODY = uuid.UUID(int=0)
_ENTITY_CHARS_MAX = 200
_REFERENCE = re.compile(r"([A-Za-z]+)/([A-Za-z0-9.-]{1,64})")
_SLOT_STATES = ("free", "busy", "busy-tentative", "busy-unavailable", "entered-in-error")


class Found(msgspec.Struct, frozen=True):
    """A page of matches. `last`: where it ended, when there are more; `total`: of all, on the first page."""

    rows: Sequence[Any]
    last: Key | None
    total: int | None


async def search_appointments(request: web.Request) -> web.StreamResponse:
    """GET /fhir/Appointment?…"""
    until_s, query = context.deadline_s(request), await asked(request)
    searching.check_known("Appointment", query)
    part, backwards = searching.page(query), searching.descending(query, "date")
    kinds = searching.includes("Appointment", query)
    low, high = searching.bounds(query.getall("date", []))
    patient, practitioners, locations, devices = _actors(query)
    own = permission.only_patient(request, "Appointment", "s")
    if own is not None and patient not in (None, own):
        return await answered(request, query, part, [], Found([], None, 0), [], None)
    patient = own or patient
    actor = (
        ("Patient", patient)
        if patient is not None
        else ("Practitioner", practitioners[0] if len(practitioners) == 1 else None)
    )
    words = searching.tokens(query, "status")
    filters = (
        patient,
        practitioners,
        locations,
        words,
        low,
        high,
        _uuid(query, "_id"),
        _uuid(query, "slot", "Slot"),
        devices,
    )
    sql = store.APPOINTMENTS_LATEST if backwards else store.APPOINTMENTS
    one_page = paged(sql, store.APPOINTMENTS_TOTAL, filters, part)

    async def run(link: Link, deadline_s: float) -> Found:
        began_s = time.monotonic()
        found = await one_page(link, deadline_s)
        await check_rows(request, link, found.rows, began_s, deadline_s, actor=actor)
        return found

    answer = await context.of(request).replay.read(run, until_s)
    context.saw(request, "search-type", f"Appointment?{'&'.join(sorted(set(query)))}"[:_ENTITY_CHARS_MAX], patient)
    resources = [fhir.appointment(store.decode_appointment(row["row"])) for row in answer.value.rows]
    return await answered(request, query, part, resources, answer.value, kinds, answer.stale_s)


async def search_slots(request: web.Request) -> web.StreamResponse:
    """GET /fhir/Slot?schedule=…&start=…&status=free|busy|busy-tentative."""
    until_s, query = context.deadline_s(request), await asked(request)
    searching.check_known("Slot", query)
    part, backwards = searching.page(query), searching.descending(query, "start")
    kinds = searching.includes("Slot", query)
    low, high = searching.window(*searching.bounds(query.getall("start", [])), context.now())
    if (fault := window_fault(low, high, context.of(request).rules)) is not None:
        raise Refusal(422, "business-rule", fault)
    states = searching.tokens(query, "status")
    if any(state not in _SLOT_STATES for state in states):
        raise Refusal(400, "code-invalid", f"status is one of {', '.join(_SLOT_STATES)}")
    codes = [
        word.rpartition("|")[2] for name in ("specialty", "service-type") for word in searching.tokens(query, name)
    ]
    schedules = searching.references(query, "schedule", "Schedule")
    filters = (low, high, schedules, _uuid(query, "_id"), states, codes)
    sql = store.SLOTS_LATEST if backwards else store.SLOTS
    answer = await context.of(request).replay.read(paged(sql, store.SLOTS_TOTAL, filters, part), until_s)
    resources = [fhir.slot(store.slot_row(row)) for row in answer.value.rows]
    return await answered(request, query, part, resources, answer.value, kinds, answer.stale_s)


async def search_referenced(request: web.Request) -> web.StreamResponse:
    """GET /fhir/{Practitioner,Location,Schedule,…}: all of them, or those that are named."""
    until_s, query, kind = context.deadline_s(request), await asked(request), request.match_info["kind"]
    permission.require(request, kind, "s")
    searching.check_known(kind, query)
    part, kinds = searching.page(query), searching.includes(kind, query)
    sql, shape = REFERENCED[kind]
    wanted = searching.references(query, "_id", kind)
    for name in ("actor", "practitioner"):
        wanted = wanted or searching.references(query, name, "Practitioner")
    answer = await context.of(request).replay.read(store.query(sql, wanted), until_s)
    shown = [shape(row) for row in answer.value]
    found = Found([], None, len(shown))
    return await answered(request, query, part, shown[: part.count], found, kinds, answer.stale_s)


async def asked(request: web.Request) -> MultiMapping[str]:
    """The search's parameters: of the query, and of the form that was posted."""
    if request.method != "POST":
        return request.query
    form = await request.post()
    words: MultiDict[str] = MultiDict(request.query)
    for name, value in form.items():
        if not isinstance(value, str):
            raise Refusal(415, "not-supported", "a search is a form of plain words")
        words.add(name, value)
    return words


def paged(
    sql: str, total_sql: str, filters: tuple[object, ...], part: Page
) -> Callable[[Link, float], Awaitable[Found]]:
    """A read of one page, and on the first page of how many there are."""

    async def run(link: Link, deadline_s: float) -> Found:
        after = (None, None) if part.after is None else (part.after.start, part.after.id)
        rows = await link.fetch(sql, *filters, *after, part.count + 1, deadline_s=deadline_s)
        total: int | None = None
        if part.after is None:
            total = len(rows)
            if len(rows) > part.count:
                (counted,) = await link.fetch(total_sql, *filters, deadline_s=deadline_s)
                total = int(counted["total"])
        shown = rows[: part.count]
        last = Key(shown[-1]["starts_at"], shown[-1]["id"]) if len(rows) > part.count and shown else None
        return Found(shown, last, total)

    return run


async def answered(
    request: web.Request,
    query: MultiMapping[str],
    part: Page,
    resources: list[fhir.Resource],
    found: Found,
    kinds: Sequence[str],
    stale_s: int | None,
) -> web.Response:
    """The Bundle, with what the matches refer to."""
    base = base_url(request)
    url = f"{base}/{request.path.removeprefix('/fhir/').removesuffix('/_search')}"
    included = await _included(request, resources, kinds) if kinds else []
    links = part.links(url, query, found.last)
    bundle = fhir.searchset(base, resources, total=found.total, links=links, included=included)
    return fhir_response(bundle, headers=stale_header(stale_s))


async def _included(
    request: web.Request, resources: Sequence[fhir.Resource], kinds: Sequence[str]
) -> list[fhir.Resource]:
    """Each once; what the caller may not read is left out."""
    text = msgspec.json.encode(resources).decode()
    wanted: dict[str, set[str]] = {}
    for kind, key in _REFERENCE.findall(text):
        if (kind in kinds or "" in kinds) and kind in INCLUDED and request[permission.ACCESS].may(kind, "r"):
            wanted.setdefault(kind, set()).add(key)
    until_s, found = context.deadline_s(request), []
    for kind, keys in sorted(wanted.items()):
        sql, shape = INCLUDED[kind]
        answer = await context.of(request).replay.read(store.query(sql, sorted(keys)), until_s)
        found += [shape(row) for row in answer.value]
    return found


INCLUDED: dict[str, tuple[str, Callable[[Mapping[str, Any]], fhir.Resource]]] = {
    **REFERENCED,
    "Patient": (store.PATIENTS, fhir.patient),
}


def _actors(query: MultiMapping[str]) -> tuple[str | None, list[str], list[str], list[str]]:
    """patient, practitioners, locations and devices; `actor` is any of them, told apart by its type."""
    patient = searching.reference(query, "patient", "Patient")
    found = {
        "Patient": [patient] if patient is not None else [],
        "Practitioner": searching.references(query, "practitioner", "Practitioner"),
        "Location": searching.references(query, "location", "Location"),
        "Device": searching.references(query, "device", "Device"),
    }
    for value in query.getall("actor", []):
        kind, _, key = value.partition("/")
        if kind not in found or found[kind]:
            raise Refusal(
                400, "value", "actor must be Patient/ID, Practitioner/ID, Location/ID or Device/ID, each once"
            )
        found[kind] = [check_id(key)]
    return next(iter(found["Patient"]), None), found["Practitioner"], found["Location"], found["Device"]


def _uuid(query: MultiMapping[str], name: str, kind: str = "") -> uuid.UUID | None:
    """An id of ours; one that this server never gave matches nothing."""
    text = query.get(name)
    if text is None:
        return None
    return parse_uuid(text.removeprefix(f"{kind}/")) or _NOBODY
