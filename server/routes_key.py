"""GET /idempotency/KEY: what was answered under a key, for a client that lost the answer (draft-ietf-httpapi-idempotency-key-header)."""

from __future__ import annotations

from datetime import timedelta

import msgspec
from aiohttp import web

from replication.wire.http import json_response
from server import context, fhir, store
from server.errors import Refusal
from server.identity import kept_key
from server.responses import base_url

KEPT_HOURS = 24
"""How long a key is remembered after its last use; published in the OpenAPI document and in every answer here."""


async def show(request: web.Request) -> web.StreamResponse:
    """200 with the answer as it was given; 404 for a key that this caller has not used, or whose request is not answered yet."""
    shared, until_s = context.of(request), context.deadline_s(request)
    key = kept_key(context.caller(request), request.match_info["key"])
    found = await shared.replay.write(store.ANSWER, (key,), until_s, lambda: shared.receipts.expected.under(key))
    if found is None:
        raise Refusal(404, "not-found", "nothing was answered under this key; it is remembered for a day")
    stored = msgspec.json.decode(found, type=store.Stored)
    row = stored.appointment
    context.saw(request, "read", f"Appointment/{row.id}", row.patient_id)
    bundle = fhir.searchset(base_url(request), [fhir.appointment(stored.appointment)], total=1)
    expires = fhir.utc(stored.created_at + timedelta(hours=KEPT_HOURS))
    return json_response({"status": stored.status, "expires_at": expires, "body": bundle})
