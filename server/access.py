"""Who may do what: SMART on FHIR scopes and the patient whom a token speaks for (https://hl7.org/fhir/smart-app-launch/). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

import msgspec

from server.identity import ANONYMOUS

_SCOPE = re.compile(r"(patient|user|system)/([A-Za-z]+|\*)\.(read|write|\*|c?r?u?d?s?)")
_V1 = {"read": "rs", "write": "cud", "*": "cruds"}


class Level(StrEnum):
    """For whom a token speaks: one patient, or staff and systems."""

    PATIENT = "patient"
    STAFF = "staff"


class Scope(msgspec.Struct, frozen=True):
    """`patient/Appointment.crus`: what may be done to which resources. `actions`: letters of c, r, u, d and s."""

    level: Level
    resource: str
    actions: str


class Access(msgspec.Struct, frozen=True):
    """One caller. `patient`: the only one whose data a patient's token shows."""

    caller: str
    scopes: tuple[Scope, ...]
    patient: str | None = None

    def may(self, resource: str, action: str) -> bool:
        """Whether this is allowed at all; of whom, `only_patient` says."""
        return any(
            scope.resource in (resource, "*") and action in scope.actions and self._counts(scope)
            for scope in self.scopes
        )

    def only_patient(self, resource: str, action: str) -> str | None:
        """The patient to whom it is confined; None for staff."""
        by_staff = any(
            scope.level is Level.STAFF and scope.resource in (resource, "*") and action in scope.actions
            for scope in self.scopes
        )
        return None if by_staff else self.patient

    def _counts(self, scope: Scope) -> bool:
        """A patient's scope without a patient allows nothing."""
        return scope.level is Level.STAFF or self.patient is not None


EVERYBODY = Access(ANONYMOUS, (Scope(Level.STAFF, "*", "cruds"),))
"""Without --auth: whoever reaches the loopback address."""


def parse_scopes(text: str) -> tuple[Scope, ...]:
    """Those that this server knows, of version 1 (`read`, `write`, `*`) and 2 (letters in order); others allow nothing."""
    return tuple(_scopes(text.split()))


def _scopes(words: Iterable[str]) -> Iterable[Scope]:
    for word in words:
        found = _SCOPE.fullmatch(word.partition("?")[0])
        # A scope with a query narrows what it allows; what this server cannot narrow, it does not allow.
        if found is None or "?" in word or not found[3]:
            continue
        level = Level.PATIENT if found[1] == "patient" else Level.STAFF
        yield Scope(level, found[2], _V1.get(found[3], found[3]))
