"""A participant accepts or declines: what is declined is free again, what is held and accepted is booked, and nobody answers for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fhir.resources.R4B.appointmentresponse import AppointmentResponse

from tests.integration.server.bodies import by_reference, only, parameters, patient, word
from tests.integration.server.clinic import Clinic, Json, clinic
from tests.integration.server.test_access import BOOK, free, guarded, of, token

HOLD = "/fhir/Appointment/$hold"


async def respond(it: Clinic, appointment: str, actor: str, said: str, **more: Any) -> tuple[int, Json]:
    headers = {name: more.pop(name) for name in ("Idempotency_Key", "Authorization") if name in more}
    body = {
        "resourceType": "AppointmentResponse",
        "appointment": {"reference": f"Appointment/{appointment}"},
        "actor": {"reference": actor},
        "participantStatus": said,
        **more,
    }
    status, answer, _ = await it.call("/fhir/AppointmentResponse", body, **headers)
    if status == 201:
        AppointmentResponse.model_validate(answer)
    return status, answer


async def test_to_decline_is_to_cancel_and_it_happens_once(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (proposal,) = await it.proposals(1)
        made = only((await it.book(proposal, "ada"))[1])
        for _ in range(2):
            status, body = await respond(it, made["id"], "Patient/ada", "declined", comment="ill", Idempotency_Key="k")
            assert (status, body["participantStatus"]) == (201, "declined"), body
        row = (await it.call(f"/fhir/Appointment/{made['id']}"))[1]
        assert (row["status"], row["meta"]["versionId"], row["comment"]) == ("cancelled", "2", "ill")
        assert (await it.proposals(1))[0]["id"] == proposal["id"], "the time is free again"
        status, body = await respond(it, made["id"], "Patient/ada", "accepted")
        assert (status, word(body)) == (422, "status-forbids")


async def test_a_hold_that_is_accepted_is_booked_and_a_booking_stays(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (proposal,) = await it.proposals(1)
        held = only((await it.call(HOLD, by_reference(proposal["id"], patient("ada"))))[1])
        assert held["status"] == "pending"
        for _ in range(2):
            status, body = await respond(it, held["id"], "Patient/ada", "accepted")
            assert status == 201, body
        row = (await it.call(f"/fhir/Appointment/{held['id']}"))[1]
        assert (row["status"], row["meta"]["versionId"]) == ("booked", "2")
        doctor = next(w["actor"]["reference"] for w in row["participant"] if "Practitioner/" in w["actor"]["reference"])
        assert (await respond(it, held["id"], doctor, "declined"))[0] == 201


async def test_what_makes_no_sense_is_refused_and_points_at_its_element(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (proposal,) = await it.proposals(1)
        made = only((await it.book(proposal, "ada"))[1])
        cases = (
            ((made["id"], "Patient/bob", "declined"), 422, "actor"),
            ((made["id"], "Patient/ada", "tentative"), 422, "participantStatus"),
            ((made["id"], "Patient/ada", "maybe"), 422, "participantStatus"),
            ((made["id"], "ada", "accepted"), 400, "actor"),
            ((proposal["id"], "Patient/ada", "accepted"), 404, "appointment"),
        )
        for (appointment, actor, said), wanted, element in cases:
            status, body = await respond(it, appointment, actor, said)
            assert (status, body["issue"][0].get("expression")) in (
                (wanted, [f"AppointmentResponse.{element}"]),
                (wanted, ["Appointment.id"]),
            ), body
        status, body, _ = await it.call("/fhir/AppointmentResponse", parameters())
        assert status == 422
        assert (await it.call(f"/fhir/Appointment/{made['id']}"))[1]["meta"]["versionId"] == "1"


async def test_a_patient_answers_only_for_himself(tmp_path: Path) -> None:
    async with guarded(tmp_path) as it:
        (slot,) = await free(it, 1)
        status, made, _ = await it.call(BOOK, by_reference(f"prop-{slot['id']}", patient("bob")), Authorization=token())
        assert status == 201
        scope = "patient/Appointment.crus patient/AppointmentResponse.c"
        ada, bob = (token(f"sub-{name}", scope, patient=name) for name in ("ada", "bob"))
        appointment = only(made)["id"]
        assert (await respond(it, appointment, "Patient/bob", "declined", Authorization=ada))[0] == 404
        assert (await respond(it, appointment, "Patient/bob", "declined", Authorization=of("bob")))[0] == 403, (
            "no scope"
        )
        practitioner = slot["schedule"]["reference"].replace("Schedule/", "Practitioner/")
        assert (await respond(it, appointment, practitioner, "declined", Authorization=bob))[0] == 403
        assert (await respond(it, appointment, "Patient/bob", "declined", Authorization=bob))[0] == 201
