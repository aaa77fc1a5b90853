"""Scopes: a patient's token shows the patient's own, a scope that is not understood allows nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access import EVERYBODY, Access, Level, parse_scopes


@pytest.mark.parametrize(
    ("scopes", "resource", "action", "allowed"),
    [
        ("patient/Appointment.crus", "Appointment", "c", True),
        ("patient/Appointment.crus", "Appointment", "d", False),
        ("patient/Appointment.crus", "Slot", "r", False),
        ("patient/*.read", "Slot", "s", True),
        ("patient/*.read", "Appointment", "c", False),
        ("user/Appointment.write", "Appointment", "u", True),
        ("user/*.*", "Patient", "d", True),
        ("system/Slot.rs", "Slot", "r", True),
        ("openid fhirUser launch/patient", "Slot", "r", False),
        ("patient/Appointment.rs?status=booked", "Appointment", "r", False),
        ("patient/Appointment.", "Appointment", "r", False),
        ("patient/Appointment.sr", "Appointment", "r", False),
        ("user/Appointment.crudsx", "Appointment", "r", False),
    ],
)
def test_a_scope_allows_what_it_says_and_nothing_else(scopes: str, resource: str, action: str, allowed: bool) -> None:
    assert Access("x", parse_scopes(scopes), "ada").may(resource, action) is allowed


def test_a_patients_scope_without_a_patient_allows_nothing_and_with_one_only_his() -> None:
    scopes = parse_scopes("patient/*.cruds")
    assert not Access("x", scopes).may("Slot", "r")
    assert Access("x", scopes, "ada").only_patient("Appointment", "r") == "ada"
    both = parse_scopes("patient/*.cruds user/Appointment.r")
    assert Access("x", both, "ada").only_patient("Appointment", "r") is None
    assert Access("x", both, "ada").only_patient("Appointment", "u") == "ada"
    assert EVERYBODY.only_patient("Appointment", "u") is None


@given(st.text(max_size=80))
def test_no_text_makes_a_scope_that_cannot_be_read_back(text: str) -> None:
    for scope in parse_scopes(text):
        level = "patient" if scope.level is Level.PATIENT else "user"
        assert parse_scopes(f"{level}/{scope.resource}.{scope.actions}") == (scope,)
