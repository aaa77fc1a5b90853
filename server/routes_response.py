"""POST /fhir/AppointmentResponse: a participant accepts or declines (FHIR R4 appointmentresponse.html).

Every participant of an appointment is needed here, so to decline is to cancel. To accept what is held books it; what is booked stays as
it is. The response is not kept by itself: it is in the appointment, and in its audit.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from server import context, fhir, permission, store
from server.bodies import ResponseResource, element
from server.errors import Refusal, pointing_at
from server.identity import parse_uuid, reference_id
from server.refusals import refusal
from server.requests import Booking
from server.responses import fhir_response
from server.routes_book import book_statement, claimed, perform
from server.routes_read import appointment_row
from server.scheduling import Status

_ACCEPTED, _DECLINED = "accepted", "declined"
_KNOWN = (_ACCEPTED, _DECLINED, "tentative", "needs-action")
_PARTICIPANTS = ("Patient", "Practitioner")
_COMMENT_CHARS_MAX = 2_000


async def create(request: web.Request) -> web.StreamResponse:
    """201 with the response. Raises Refusal: 404 for an appointment that is not there for this caller, 422 for one in which the
    actor takes no part."""
    until_s = context.deadline_s(request)
    body = await context.body(request, until_s)
    said, claim = _parse(body), claimed(request, body)
    with pointing_at("AppointmentResponse.appointment"):
        wanted = parse_uuid(reference_id(said.appointment.reference or "", "Appointment"))
        answer = None if wanted is None else await appointment_row(request, wanted, until_s)
        if answer is None:
            raise refusal("appointment-unknown")
    row = answer.value
    _check_actor(request, row, said.actor.reference or "")
    if said.participant_status == _DECLINED:
        change = Booking(appointment=row.id, status=Status.CANCELLED, comment=said.comment)
        row = (await perform(request, book_statement, claim, change, until_s)).appointment
    elif row.status is Status.PENDING:
        row = (await perform(request, book_statement, claim, Booking(appointment=row.id), until_s)).appointment
    elif row.status is not Status.BOOKED:
        raise refusal("status-forbids")
    return fhir_response(_shown(row, said), 201)


def _parse(body: bytes) -> ResponseResource:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
        found = msgspec.json.decode(body, type=ResponseResource)
    except msgspec.ValidationError as error:
        sentence = f"the body is not an AppointmentResponse: {error}"
        raise Refusal(422, "structure", sentence, expression=element(error, "AppointmentResponse")) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, "structure", f"the body is not JSON: {error}") from error
    with pointing_at("AppointmentResponse.participantStatus"):
        if found.participant_status not in _KNOWN:
            raise Refusal(422, "code-invalid", f"participantStatus is one of {', '.join(_KNOWN)}")
        if found.participant_status not in (_ACCEPTED, _DECLINED):
            raise Refusal(422, "business-rule", "a participant accepts or declines here")
    if found.comment is not None and (len(found.comment) > _COMMENT_CHARS_MAX or "\0" in found.comment):
        sentence = f"a comment is at most {_COMMENT_CHARS_MAX} characters of text"
        raise Refusal(422, "too-long", sentence, expression="AppointmentResponse.comment")
    return found


def _check_actor(request: web.Request, row: store.AppointmentRow, reference: str) -> None:
    """A participant answers for itself. Raises Refusal."""
    kind = next((kind for kind in _PARTICIPANTS if f"{kind}/" in reference), "Patient")
    with pointing_at("AppointmentResponse.actor"):
        who = reference_id(reference, kind)
        if who != (row.patient_id if kind == "Patient" else row.practitioner_id):
            raise Refusal(422, "business-rule", f"{kind}/{who} takes no part in this appointment")
        own = permission.only_patient(request, "AppointmentResponse", "c")
        if own is not None and (kind, who) != ("Patient", own):
            raise Refusal(403, "forbidden", "the token's patient answers for nobody else")


def _shown(row: store.AppointmentRow, said: ResponseResource) -> fhir.Resource:
    found: fhir.Resource = {
        "resourceType": "AppointmentResponse",
        "id": f"{row.id}-{row.version}",
        "appointment": {"reference": f"Appointment/{row.id}"},
        "start": fhir.utc(row.starts_at),
        "end": fhir.utc(row.ends_at),
        "actor": {"reference": said.actor.reference},
        "participantStatus": said.participant_status,
    }
    if said.comment is not None:
        found["comment"] = said.comment
    return found
