"""What clients send: FHIR Parameters and Appointments, as far as Locum reads them, checked and made plain.

Unknown elements are ignored, as FHIR asks; wrong types are refused with the path of the element.
"""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime
from typing import Any, TypeVar

import msgspec

from server.bodies import (
    AppointmentResource,
    Meta,
    Parameter,
    Parameters,
    PatientResource,
    Reference,
    element,
    parameter_path,
)
from server.errors import Refusal, pointing_at
from server.identity import check_id, parse_appointment, parse_uuid, reference_id
from server.scheduling import Status
from server.timing import ALWAYS, Hours, hours

T = TypeVar("T")

_COMMENT_CHARS_MAX = 2_000
_NAME_CHARS_MAX = 200


class Find(msgspec.Struct, frozen=True):
    """A $find made plain. Empty lists do not narrow."""

    start: datetime
    end: datetime
    practitioners: list[str]
    locations: list[str]
    organizations: list[str]
    specialties: list[str]
    visit_types: list[str]
    hours: Hours
    count_max: int | None


class Patient(msgspec.Struct, frozen=True):
    id: str
    name: str | None = None


class Booking(msgspec.Struct, frozen=True, kw_only=True):
    """A $book or $hold made plain: `appointment` is an existing one's id, `slot` is meant by a proposal or a reference.

    `status` is what the body asks for (a reference alone asks for a booking). `version`: from the body's meta.
    """

    appointment: uuid.UUID | None = None
    slot: uuid.UUID | None = None
    practitioner: str | None = None
    start: datetime | None = None
    status: Status = Status.PENDING
    patient: Patient | None = None
    comment: str | None = None
    version: int | None = None


_FIND_USED = {
    *("start", "end", "practitioner", "location-reference", "organization"),
    *("specialty", "visit-type", "timing", "_count"),
}
_FIND_IGNORED = {"patient-reference", "patient-resource", "reason", "referral-identifier", "insurance-reference"}
_BOOK_USED = {"appointment-reference", "appointment-resource", "patient-reference", "patient-resource", "comment"}


def parse_parameters(body: bytes) -> Parameters:
    """The body of an operation. Raises Refusal: 400 when it is not JSON, 422 when it is not Parameters."""
    try:
        # The decoder stops at the first wrong type: whether the rest is JSON is known only when all of it was read.
        msgspec.json.decode(body, type=msgspec.Raw)
        return msgspec.json.decode(body, type=Parameters)
    except msgspec.ValidationError as error:
        said = f"the body is not the Parameters resource of this operation: {error}"
        raise Refusal(422, "structure", said, expression=element(error, "Parameters")) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, "structure", f"the body is not JSON: {error}") from error


def parse_find(parameters: Parameters) -> Find:
    """The parameters of $find (IHE ITI-115). Raises Refusal 400, or 422 for one that would narrow but is not known."""
    _only(parameters, _FIND_USED | _FIND_IGNORED)
    return Find(
        start=_moment(parameters, "start"),
        end=_moment(parameters, "end"),
        practitioners=_ids(parameters, "practitioner", "Practitioner"),
        locations=_ids(parameters, "location-reference", "Location"),
        organizations=_ids(parameters, "organization", "Organization"),
        specialties=[_code(parameter) for parameter in parameters.all("specialty")],
        visit_types=[_code(parameter) for parameter in parameters.all("visit-type")],
        hours=_hours(parameters),
        count_max=_count(parameters),
    )


def parse_booking(parameters: Parameters) -> Booking:
    """The parameters of $book and $hold (IHE ITI-117, ITI-116). Raises Refusal 400, 404 or 422."""
    _only(parameters, _BOOK_USED)
    reference, resource = parameters.one("appointment-reference"), parameters.one("appointment-resource")
    if (reference is None) == (resource is None):
        why = "give either appointment-reference or appointment-resource"
        raise Refusal(400, "required", why, expression="Parameters.parameter")
    if resource is not None:
        booking = _from_resource(_resource(resource, AppointmentResource))
    else:
        (text,) = _references(parameters, "appointment-reference")
        with pointing_at(parameter_path("appointment-reference")):
            appointment, slot = parse_appointment(reference_id(text, "Appointment"))
        booking = Booking(appointment=appointment, slot=slot)
    patient = _patient(parameters) or booking.patient
    comment = parameters.one("comment")
    said = booking.comment if comment is None else _text(comment)
    if said is not None and (len(said) > _COMMENT_CHARS_MAX or "\0" in said):
        path = "Appointment.comment" if comment is None else parameter_path("comment")
        raise Refusal(422, "too-long", f"a comment is at most {_COMMENT_CHARS_MAX} characters of text", expression=path)
    return msgspec.structs.replace(booking, patient=patient, comment=said)


def parse_moment(text: str) -> datetime:
    """A FHIR instant or dateTime with an offset; a date alone means midnight UTC. Raises Refusal 400."""
    try:
        if len(text) == len("2026-01-01"):
            return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None and moment.year > 1:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise Refusal(400, "value", f"{text[:40]!r} is not a time with an offset, such as 2026-01-31T09:00:00+01:00")


def _from_resource(found: AppointmentResource) -> Booking:
    try:
        status = Status(found.status)
    except ValueError:
        said = f"{found.status[:40]!r} is not a status that can be asked for"
        raise Refusal(422, "code-invalid", said, expression="Appointment.status") from None
    with pointing_at("Appointment.id"):
        appointment, proposed = parse_appointment(found.id) if found.id is not None else (None, None)
    with pointing_at("Appointment.slot"):
        if len(found.slot) > 1:
            raise Refusal(422, "business-rule", "an appointment has one slot here")
        slot = _slot(found.slot[0]) if found.slot else proposed
    with pointing_at("Appointment.participant"):
        actors = [item.actor.reference for item in found.participant if item.actor and item.actor.reference]
        practitioner, patient = _actor(actors, "Practitioner"), _actor(actors, "Patient")
    with pointing_at("Appointment.start"):
        start = parse_moment(found.start) if found.start is not None else None
    return Booking(
        appointment=appointment,
        slot=slot,
        practitioner=practitioner,
        start=start,
        status=status,
        patient=Patient(patient) if patient is not None else None,
        comment=found.comment,
        version=_version(found.meta),
    )


def _ids(parameters: Parameters, name: str, kind: str) -> list[str]:
    with pointing_at(parameter_path(name)):
        return [reference_id(text, kind) for text in _references(parameters, name)]


def _slot(reference: Reference) -> uuid.UUID:
    found = parse_uuid(reference_id(reference.reference or "", "Slot"))
    if found is None:
        raise Refusal(404, "not-found", "there is no such slot; ask $find again", detail="slot-unknown")
    return found


def _actor(references: list[str], kind: str) -> str | None:
    found = {reference_id(text, kind) for text in references if f"{kind}/" in text}
    if len(found) > 1:
        raise Refusal(422, "business-rule", f"an appointment has one {kind} here")
    return found.pop() if found else None


def _version(meta: Meta | None) -> int | None:
    if meta is None or meta.version_id is None:
        return None
    return parse_version(meta.version_id)


def parse_version(text: str) -> int:
    """A version as the server wrote it; one that it never wrote is 0, which no appointment has."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0


def _patient(parameters: Parameters) -> Patient | None:
    resource = parameters.one("patient-resource")
    if resource is not None:
        found = _resource(resource, PatientResource)
        return Patient(check_id(found.id) if found.id else str(uuid.uuid4()), name_of(found))
    references = _references(parameters, "patient-reference")
    if len(references) > 1:
        said = "group appointments are not made here: give one patient"
        raise Refusal(422, "business-rule", said, expression=parameter_path("patient-reference"))
    with pointing_at(parameter_path("patient-reference")):
        return Patient(reference_id(references[0], "Patient")) if references else None


def name_of(found: PatientResource) -> str | None:
    """A patient's name in one line; None where none is given."""
    for name in found.name:
        said = name.text or " ".join([*name.given, *([name.family] if name.family else [])])
        if said and "\0" not in said:
            return said[:_NAME_CHARS_MAX]
    return None


def _only(parameters: Parameters, known: set[str]) -> None:
    for parameter in parameters.parameter:
        if parameter.name not in known:
            said = f"the parameter {parameter.name[:60]!r} is not supported here"
            raise Refusal(422, "not-supported", said, expression=parameter_path(parameter.name))


def _references(parameters: Parameters, name: str) -> list[str]:
    found = []
    for parameter in parameters.all(name):
        if parameter.value_reference is None or not parameter.value_reference.reference:
            said = f"the parameter {name} needs a valueReference with a reference"
            raise Refusal(400, "required", said, expression=parameter_path(name))
        found.append(parameter.value_reference.reference)
    return found


def _hours(parameters: Parameters) -> Hours:
    parameter = parameters.one("timing")
    if parameter is None:
        return ALWAYS
    with pointing_at(parameter_path("timing")):
        return hours(parameter.value_timing)


def _resource(parameter: Parameter, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(bytes(parameter.resource) or b"null", type=type_)
    except msgspec.ValidationError as error:
        path = element(error, f"{parameter_path(parameter.name)}.resource")
        raise Refusal(
            422, "structure", f"the resource of {parameter.name} is not usable: {error}", expression=path
        ) from error


def _moment(parameters: Parameters, name: str) -> datetime:
    parameter = parameters.one(name)
    text = None if parameter is None else parameter.value_date_time or parameter.value_instant
    if text is None:
        said = f"the parameter {name} is required, as valueDateTime"
        raise Refusal(400, "required", said, expression=parameter_path(name))
    with pointing_at(parameter_path(name)):
        return parse_moment(text)


def _text(parameter: Parameter) -> str:
    if parameter.value_string is None:
        said = f"the parameter {parameter.name} needs a valueString"
        raise Refusal(400, "required", said, expression=parameter_path(parameter.name))
    return parameter.value_string


def _code(parameter: Parameter) -> str:
    codings: tuple[Any, ...] = ()
    if parameter.value_codeable_concept is not None:
        codings = parameter.value_codeable_concept.coding
    elif parameter.value_coding is not None:
        codings = (parameter.value_coding,)
    text = next((coding.code for coding in codings if coding.code), None)
    text = text or parameter.value_code or parameter.value_string
    if not text:
        said = f"the parameter {parameter.name} needs a code"
        raise Refusal(400, "required", said, expression=parameter_path(parameter.name))
    return str(text).rpartition("|")[2]


def _count(parameters: Parameters) -> int | None:
    parameter = parameters.one("_count")
    if parameter is None:
        return None
    found = parameter.value_integer if parameter.value_integer is not None else parameter.value_positive_int
    if found is None or found < 1:
        raise Refusal(400, "value", "_count must be a valueInteger above zero", expression=parameter_path("_count"))
    return found
