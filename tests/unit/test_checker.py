"""The checker of the acceptance tests finds what it is there to find."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from tests.acceptance.checker import compare
from tests.acceptance.fhir import Proposal
from tests.acceptance.workload import Booking, History

START = datetime.datetime(2026, 5, 4, 9, 0, tzinfo=datetime.UTC)
END = START + datetime.timedelta(minutes=15)


def booking(number: int, *, status: int | None = 201, sent_s: float = 0.0, ended_s: float | None = 1.0) -> Booking:
    start, end = (moment + datetime.timedelta(hours=number) for moment in (START, END))
    proposal = Proposal(f"prop-{number}", start.isoformat(), end.isoformat(), "doctor", None)
    appointment = f"id-{number}" if status == 201 else None
    return Booking(
        key=str(number),
        proposal=proposal,
        patient=proposal.patient,
        sent_s=sent_s,
        ended_s=ended_s,
        status=status,
        appointment=appointment,
    )


def row(number: int, **changes: Any) -> dict[str, Any]:
    start, end = (moment + datetime.timedelta(hours=number) for moment in (START, END))
    same = {"id": f"id-{number}", "status": "booked", "start": start, "end": end}
    return {**same, "practitioner_id": "doctor", "patient_id": "of-doctor", **changes}


HISTORY = History([booking(1), booking(2), booking(3, status=503), booking(4, status=None)])


def test_all_there_and_right_is_clean() -> None:
    assert compare(HISTORY, [row(1), row(2)]).is_clean


def test_a_row_of_a_request_without_an_answer_is_no_finding() -> None:
    assert compare(HISTORY, [row(1), row(2), row(4)]).is_clean


def test_an_acknowledged_booking_without_a_row_is_lost() -> None:
    assert compare(HISTORY, [row(2)]).lost == ("id-1",)


@pytest.mark.parametrize(
    "change",
    [{"start": START}, {"end": END}, {"practitioner_id": "another"}, {"patient_id": "another"}],
    ids=lambda change: next(iter(change)),
)
def test_a_row_with_another_content_is_wrong(change: dict[str, Any]) -> None:
    assert compare(HISTORY, [row(1), row(2, **change)]).wrong == ("id-2",)


def test_two_rows_for_one_time_of_one_practitioner_are_doubled() -> None:
    assert compare(HISTORY, [row(1), row(1, id="ghost"), row(2)]).doubled == ("ghost", "id-1")


def test_one_appointment_promised_to_two_requests_is_doubled() -> None:
    twice = History([booking(1), booking(1)])
    assert compare(twice, [row(1)]).doubled == ("id-1",)


def test_the_gap_is_the_longest_silence_from_the_last_answer_before_the_fault() -> None:
    ended = [0.0, 1.0, 1.2, 4.2, 4.3]
    history = History([booking(number, ended_s=moment) for number, moment in enumerate(ended)])
    assert history.gap_ms(1.1) == pytest.approx(3000)
    assert history.gap_ms(0.5) == pytest.approx(3000)
    assert history.gap_ms(0.5, until_s=1.5) == pytest.approx(1000)
    with pytest.raises(AssertionError, match="both sides"):
        history.gap_ms(9.0)
