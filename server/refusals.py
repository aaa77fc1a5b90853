"""What each word of the database (schema.sql) and each violated constraint means to a client: a pure table."""

from __future__ import annotations

import asyncpg

from server.errors import DatabaseConflict, Refusal

_WORDS: dict[str, tuple[int, str, str]] = {
    "key-reused": (422, "business-rule", "this Idempotency-Key was used with another request; use a new key"),
    "slot-unknown": (404, "not-found", "there is no such slot; ask $find again"),
    "slot-past": (422, "business-rule", "this slot has begun or is about to begin; choose a later one"),
    "slot-mismatch": (
        422,
        "business-rule",
        "the slot and the start that were given belong to different slots; give one",
    ),
    "appointment-unknown": (404, "not-found", "there is no such appointment"),
    "appointment-past": (422, "business-rule", "this appointment has begun: it can no longer be changed"),
    "appointment-ahead": (422, "business-rule", "this appointment has not begun yet"),
    "status-forbids": (422, "business-rule", "the appointment's status does not allow this change"),
    "patient-differs": (422, "business-rule", "the appointment is of another patient"),
    "patient-missing": (400, "required", "an appointment needs a patient: give patient-resource or a participant"),
    "precondition-failed": (412, "conflict", "If-Match does not name the current version; read the appointment again"),
    "stale-version": (409, "conflict", "meta.versionId is not the current version; read the appointment again"),
    "duplicate": (409, "duplicate", "this appointment has already been held or booked"),
    "hold-expired": (409, "conflict", "the hold has ended; ask $find for a free slot"),
    "slot-taken": (409, "conflict", "the slot is taken; choose another one"),
    "patient-overlap": (409, "conflict", "the patient has another appointment at that time"),
}
_EXPRESSIONS = {
    "slot-unknown": "Appointment.slot",
    "slot-past": "Appointment.start",
    "slot-mismatch": "Appointment.start",
    "slot-taken": "Appointment.slot",
    "hold-expired": "Appointment.slot",
    "appointment-unknown": "Appointment.id",
    "appointment-past": "Appointment.start",
    "appointment-ahead": "Appointment.status",
    "status-forbids": "Appointment.status",
    "duplicate": "Appointment.status",
    "patient-differs": "Appointment.participant",
    "patient-missing": "Appointment.participant",
    "patient-overlap": "Appointment.participant",
    "stale-version": "Appointment.meta.versionId",
}
"""The element that is wrong; a word of a header has none."""
_DETAILS = {"hold-expired": "slot-taken"}
_CONSTRAINTS = {
    "appointment_practitioner_free": "slot-taken",
    "appointment_location_free": "slot-taken",
    "appointment_device_free": "slot-taken",
    "appointment_patient_free": "patient-overlap",
}


def refusal(word: str) -> Refusal:
    """The answer for one word. Raises KeyError for a word that schema.sql does not use."""
    status, issue, sentence = _WORDS[word]
    return Refusal(status, issue, sentence, detail=_DETAILS.get(word, word), expression=_EXPRESSIONS.get(word))


def refusal_for_conflict(error: DatabaseConflict) -> Refusal:
    """The answer for a violated exclusion constraint, or for a deadlock between two of them that came twice."""
    return refusal(_CONSTRAINTS.get(error.constraint or "", "slot-taken"))


def refusal_for(error: asyncpg.PostgresError) -> Refusal:
    """The answer for an exception that schema.sql raised on purpose (server/link.py lets no other through)."""
    return refusal(str(error.args[0]))
