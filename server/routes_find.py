"""POST /fhir/Appointment/$find (IHE ITI-115): free slots as proposed Appointments."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from server import context, fhir, store
from server.errors import Refusal
from server.requests import parse_find, parse_parameters
from server.responses import base_url, fhir_response, stale_header
from server.scheduling import earliest_start, window_fault

PROPOSALS_MAX = 5_000
_BATCH = 200


async def find(request: web.Request) -> web.StreamResponse:
    """A searchset of at most 5,000 proposals (or `_count`), earliest first. It takes nothing from anybody."""
    shared, until_s = context.of(request), context.deadline_s(request)
    asked = parse_find(parse_parameters(await context.body(request, until_s)))
    fault = window_fault(asked.start, asked.end, shared.rules)
    if fault is not None:
        raise Refusal(422, "business-rule", fault)
    limit = min(asked.count_max or PROPOSALS_MAX, PROPOSALS_MAX)
    query = store.query(
        store.FREE_SLOTS_OF if asked.practitioners else store.FREE_SLOTS,
        asked.start,
        asked.end,
        earliest_start(context.now(), shared.rules),
        asked.practitioners,
        asked.locations,
        asked.specialties,
        limit,
        asked.organizations,
        asked.visit_types,
        list(asked.hours.days),
        list(asked.hours.since),
        list(asked.hours.until),
    )
    answer = await shared.replay.read(query, until_s)
    body = await _encode(base_url(request), [store.slot_row(row) for row in answer.value])
    return fhir_response(body, headers=stale_header(answer.stale_s))


async def _encode(base: str, rows: list[store.SlotRow]) -> bytes:
    """The Bundle, made in parts so that thousands of proposals do not hold up the event loop."""
    entries: list[msgspec.Raw] = []
    for number, row in enumerate(rows):
        entries.append(msgspec.Raw(msgspec.json.encode(fhir.entry(base, fhir.proposal(row)))))
        if number % _BATCH == _BATCH - 1:
            await asyncio.sleep(0)
    bundle: fhir.Resource = {"resourceType": "Bundle", "type": "searchset", "total": len(entries)}
    if entries:
        bundle["entry"] = entries
    return msgspec.json.encode(bundle)
