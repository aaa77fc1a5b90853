"""The shapes of what clients send, as far as Locum reads them, and where in them something is (FHIRPath)."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from server.errors import Refusal

_NAME = re.compile(r"[A-Za-z_-]{1,60}")
_AT = re.compile(r"at `\$([A-Za-z0-9_.\[\]]*)`")


class Reference(msgspec.Struct, frozen=True):
    reference: str | None = None


class Coding(msgspec.Struct, frozen=True):
    code: str | None = None


class CodeableConcept(msgspec.Struct, frozen=True):
    coding: tuple[Coding, ...] = ()


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    version_id: str | None = None


class Participant(msgspec.Struct, frozen=True):
    actor: Reference | None = None


class HumanName(msgspec.Struct, frozen=True):
    text: str | None = None
    given: tuple[str, ...] = ()
    family: str | None = None


class PatientResource(msgspec.Struct, frozen=True, rename="camel"):
    resource_type: Literal["Patient"]
    id: str | None = None
    name: tuple[HumanName, ...] = ()


class AppointmentResource(msgspec.Struct, frozen=True, rename="camel"):
    resource_type: Literal["Appointment"]
    status: str
    id: str | None = None
    meta: Meta | None = None
    start: str | None = None
    slot: tuple[Reference, ...] = ()
    participant: tuple[Participant, ...] = ()
    comment: str | None = None


class ResponseResource(msgspec.Struct, frozen=True, rename="camel"):
    """An AppointmentResponse (R4 appointmentresponse.html)."""

    resource_type: Literal["AppointmentResponse"]
    appointment: Reference
    actor: Reference
    participant_status: str
    comment: str | None = None


class Repeat(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What is not listed here would narrow, and is refused."""

    day_of_week: tuple[str, ...] = ()
    time_of_day: tuple[str, ...] = ()
    when: tuple[str, ...] = ()


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    repeat: Repeat | None = None


class Parameter(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    value_reference: Reference | None = None
    value_date_time: str | None = None
    value_instant: str | None = None
    value_string: str | None = None
    value_code: str | None = None
    value_coding: Coding | None = None
    value_codeable_concept: CodeableConcept | None = None
    value_integer: int | None = None
    value_positive_int: int | None = None
    value_timing: Timing | None = None
    resource: msgspec.Raw = msgspec.Raw(b"")


class Parameters(msgspec.Struct, frozen=True, rename="camel"):
    """A FHIR Parameters resource (R4 parameters.html)."""

    resource_type: Literal["Parameters"]
    parameter: tuple[Parameter, ...] = ()

    def all(self, name: str) -> list[Parameter]:
        """Every parameter of a name."""
        return [parameter for parameter in self.parameter if parameter.name == name]

    def one(self, name: str) -> Parameter | None:
        """The only parameter of a name, or None. Raises Refusal 400 when it is repeated."""
        found = self.all(name)
        if len(found) > 1:
            raise Refusal(400, "invalid", f"the parameter {name} may be given once", expression=parameter_path(name))
        return found[0] if found else None


def parameter_path(name: str) -> str:
    """Where a parameter of this name lies."""
    return f"Parameters.parameter.where(name = '{name}')" if _NAME.fullmatch(name) else "Parameters.parameter"


def element(error: msgspec.ValidationError, root: str) -> str:
    """The element that msgspec complains of (`… - at `$.parameter[0].name``), as a path from the resource on."""
    found = _AT.search(str(error))
    return root if found is None else root + re.sub(r"\[\.\.\.\]", "", found[1])
