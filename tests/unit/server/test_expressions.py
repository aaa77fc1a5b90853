"""A refusal points at the element that is wrong."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from server.errors import Refusal
from server.requests import parse_booking, parse_find, parse_parameters

RESOURCE = {"resourceType": "Appointment", "status": "booked"}
REFERENCE = "Parameters.parameter.where(name = 'appointment-reference')"


def said_of(parse: Any, *items: dict[str, Any]) -> str | None:
    body = msgspec.json.encode({"resourceType": "Parameters", "parameter": list(items)})
    with pytest.raises(Refusal) as caught:
        parse(parse_parameters(body))
    return caught.value.expression


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"status": "asleep"}, "Appointment.status"),
        ({"id": "no-id"}, "Appointment.id"),
        ({"slot": [{"reference": "Slot/x y"}]}, "Appointment.slot"),
        ({"slot": [{"reference": "Slot/1"}, {"reference": "Slot/2"}]}, "Appointment.slot"),
        ({"start": "tomorrow"}, "Appointment.start"),
        ({"participant": [{"actor": {"reference": "Patient/???"}}]}, "Appointment.participant"),
        ({"comment": "x" * 3_000}, "Appointment.comment"),
        ({"status": 7}, "Parameters.parameter.where(name = 'appointment-resource').resource.status"),
    ],
)
def test_of_a_resource(changed: dict[str, Any], expected: str) -> None:
    assert said_of(parse_booking, {"name": "appointment-resource", "resource": {**RESOURCE, **changed}}) == expected


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"name": "appointment-reference", "valueReference": {"reference": "Practitioner/1"}}, REFERENCE),
        ({"name": "appointment-reference", "valueString": "x"}, REFERENCE),
        ({"name": "comment", "valueString": "only this"}, "Parameters.parameter"),
        ({"name": "no-such"}, "Parameters.parameter.where(name = 'no-such')"),
        ({"name": "it's; DROP"}, "Parameters.parameter"),
        ({"name": 7}, "Parameters.parameter[0].name"),
    ],
)
def test_of_a_parameter(item: dict[str, Any], expected: str) -> None:
    assert said_of(parse_booking, item) == expected


def test_of_a_search() -> None:
    start = {"name": "start", "valueDateTime": "2026-01-01"}
    assert said_of(parse_find, start) == "Parameters.parameter.where(name = 'end')"
    end = {"name": "end", "valueDateTime": "never"}
    assert said_of(parse_find, start, end) == "Parameters.parameter.where(name = 'end')"
    twice = said_of(parse_find, start, start)
    assert twice == "Parameters.parameter.where(name = 'start')"
