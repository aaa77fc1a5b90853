"""POST /fhir/Patient: a patient as far as scheduling needs one, made once (FHIR R4 http.html, conditional create)."""

from __future__ import annotations

import uuid
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from server import context, fhir, permission, store
from server.bodies import PatientResource
from server.errors import Refusal
from server.identity import check_id, uuid7
from server.requests import name_of
from server.responses import base_url, fhir_response


async def create(request: web.Request) -> web.StreamResponse:
    """201 for a new patient; 200 for one that is there already, when If-None-Exist asks so or the id says so."""
    shared, until_s = context.of(request), context.deadline_s(request)
    body = await context.body(request, until_s)
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
        found = msgspec.json.decode(body, type=PatientResource)
    except msgspec.ValidationError as error:
        raise Refusal(422, "structure", f"the body is not a Patient: {error}", expression="Patient") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, "structure", f"the body is not JSON: {error}") from error
    wanted = _wanted(request.headers.get("If-None-Exist"))
    key = wanted or (check_id(found.id) if found.id else str(uuid.uuid4()))
    if permission.only_patient(request, "Patient", "c") not in (None, key):
        raise Refusal(403, "forbidden", "the token's patient may create nobody else", expression="Patient.id")
    name = name_of(found)
    args = (key, name, context.caller(request), uuid7())
    is_new = await shared.replay.write(store.NEW_PATIENT, args, until_s)
    answer = await shared.replay.read(store.query(store.PATIENTS, [key]), until_s)
    row = answer.value[0] if answer.value else {"id": key, "name": name}
    headers = {"Location": f"{base_url(request)}/Patient/{key}"}
    return fhir_response(fhir.patient(row), 201 if is_new else 200, headers)


def _wanted(header: str | None) -> str | None:
    """The id in `_id=…`, the one thing by which a patient is known here. Raises Refusal 400."""
    if header is None:
        return None
    words = parse_qsl(header, keep_blank_values=True)
    if len(words) != 1 or words[0][0] != "_id":
        raise Refusal(400, "not-supported", "If-None-Exist may be _id=ID: nothing else of a patient is kept here")
    return check_id(words[0][1])
