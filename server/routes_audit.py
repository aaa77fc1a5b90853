"""GET /fhir/AuditEvent: who did what, and who looked at what (FHIR R4 auditevent.html, IHE BALP's idea of it). Read only."""

from __future__ import annotations

from aiohttp import web

from server import context, fhir, permission, searching, store
from server.errors import Refusal
from server.identity import parse_uuid
from server.responses import fhir_response, stale_header
from server.routes_read import unknown
from server.routes_search import Found, answered, asked, paged

_ACTIONS = ("C", "R", "U", "D", "E")


async def search(request: web.Request) -> web.StreamResponse:
    """GET /fhir/AuditEvent?patient=…&entity=…&agent=…&action=…&date=…: oldest first; of the last 31 days without a date."""
    until_s, query = context.deadline_s(request), await asked(request)
    searching.check_known("AuditEvent", query)
    part, backwards = searching.page(query), searching.descending(query, "date")
    low, high = searching.bounds(query.getall("date", []))
    if low is None and high is None:
        low, high = context.now() - searching.WINDOW, None
    patient, own = searching.reference(query, "patient", "Patient"), permission.only_patient(request, "AuditEvent", "s")
    if own is not None and patient not in (None, own):
        return await answered(request, query, part, [], Found([], None, 0), [], None)
    actions = searching.tokens(query, "action")
    if any(action not in _ACTIONS for action in actions):
        raise Refusal(400, "code-invalid", f"action is one of {', '.join(_ACTIONS)}")
    entities, agents = searching.tokens(query, "entity"), searching.tokens(query, "agent")
    filters = (own or patient, entities, agents, actions, low, high)
    sql = store.AUDIT_LATEST if backwards else store.AUDIT
    answer = await context.of(request).replay.read(paged(sql, store.AUDIT_TOTAL, filters, part), until_s)
    resources = [fhir.audit_event(row) for row in answer.value.rows]
    return await answered(request, query, part, resources, answer.value, [], answer.stale_s)


async def read(request: web.Request) -> web.StreamResponse:
    """GET /fhir/AuditEvent/[id]."""
    until_s, wanted = context.deadline_s(request), parse_uuid(request.match_info["id"])
    if wanted is None:
        raise unknown(request)
    answer = await context.of(request).replay.read(store.query(store.AUDIT_ONE, wanted), until_s)
    if not answer.value:
        raise unknown(request)
    row = answer.value[0]
    if permission.only_patient(request, "AuditEvent", "r") not in (None, row["patient_id"]):
        raise unknown(request)
    return fhir_response(fhir.audit_event(row), headers=stale_header(answer.stale_s))
