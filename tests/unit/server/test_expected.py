"""What must be in the way of a booking: the newest version of whatever keeps others out, by slot, patient and practitioner."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from server.expected import AT_ONCE_MAX, Expected, Standing
from server.scheduling import BLOCKING, Status
from server.store import AppointmentRow

NINE = datetime(2030, 1, 1, 9, tzinfo=UTC)
SLOT = uuid.UUID(int=1)


def row(
    number: int = 1, *, version: int = 1, status: Status = Status.BOOKED, patient: str | None = "ada"
) -> AppointmentRow:
    return AppointmentRow(
        id=uuid.UUID(int=number), version=version, status=status, slot_id=SLOT, starts_at=NINE,
        ends_at=NINE + timedelta(minutes=15), practitioner_id="dr-01", practitioner_name="Ada Abara", specialty_code="1",
        specialty="General practice", location_id="room-01", location_name="Room 1", timezone="UTC", patient_id=patient,
        patient_name=None, comment=None, hold_expires_at=None, created_at=NINE, updated_at=NINE,
    )  # fmt: skip


def test_what_was_booked_is_in_the_way_of_its_slot_its_patient_and_in_searches_until_it_is_cancelled() -> None:
    expected, one = Expected(), Standing(str(uuid.UUID(int=1)), 1)
    expected.note(row())
    assert expected.in_the_way(SLOT, None) == expected.in_the_way(None, "ada") == [one]
    assert expected.in_the_way(SLOT, "ada") == [one], "once, though it is in the way twice"
    assert expected.of_actor("Patient", "ada") == expected.of_actor("Practitioner", "dr-01") == [one]
    assert expected.in_the_way(uuid.UUID(int=2), "bob") == []
    expected.note(row(version=2, status=Status.CANCELLED))
    assert expected.in_the_way(SLOT, "ada") == expected.of_actor("Practitioner", "dr-01") == []


def test_an_older_version_that_comes_late_changes_nothing() -> None:
    expected = Expected()
    expected.note(row(version=3, status=Status.CANCELLED))
    expected.note(row(version=2))
    assert expected.in_the_way(SLOT, "ada") == []


def test_a_write_must_meet_what_it_changes_and_what_its_key_was_answered_with_until_that_is_forgotten() -> None:
    expected, one, other = Expected(), Standing(str(uuid.UUID(int=1)), 3), Standing(str(uuid.UUID(int=2)), 1)
    expected.note(row(), "booked")
    expected.note(row(version=3, status=Status.CANCELLED), "cancelled")
    expected.note(row(version=2), "late")
    expected.note(row(2))
    for key in ("booked", "cancelled", "late"):
        assert expected.under(key) == [one], "as new as anybody was told"
    assert expected.under("never") == []
    assert expected.by("booked", None, None, None) == [one]
    assert expected.by("never", None, None, uuid.UUID(int=1)) == [one]
    assert expected.by("booked", SLOT, "ada", uuid.UUID(int=1)) == [other, one]
    expected.forget(one.id)
    assert expected.by("booked", None, None, uuid.UUID(int=1)) == []


def test_a_patient_with_a_great_many_appointments_costs_no_more_than_so_much() -> None:
    expected = Expected()
    for number in range(3 * AT_ONCE_MAX):
        expected.note(row(number))
    assert len(expected.in_the_way(None, "ada")) == AT_ONCE_MAX


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 5), st.sampled_from(Status), st.sampled_from(["ada", "bob", None]))
    )
)
def test_it_says_what_the_newest_versions_say(told: list[tuple[int, int, Status, str | None]]) -> None:
    expected, newest = Expected(), dict[int, AppointmentRow]()
    for number, version, status, patient in told:
        one = row(number, version=version, status=status, patient=patient)
        expected.note(one)
        if number not in newest or version >= newest[number].version:
            newest[number] = one
    for patient in ("ada", "bob"):
        wanted = {
            (str(one.id), one.version)
            for one in newest.values()
            if one.patient_id == patient and one.status in BLOCKING
        }
        assert {msgspec.structs.astuple(one) for one in expected.of_actor("Patient", patient)} == wanted
    for number in newest:
        expected.forget(str(uuid.UUID(int=number)))
    assert expected.of_actor("Practitioner", "dr-01") == []
