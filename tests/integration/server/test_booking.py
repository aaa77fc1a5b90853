"""Find, hold, book, change, cancel: over HTTP, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from server.scheduling import Rules
from tests.integration.server.bodies import book_body, by_reference, by_resource, only, parameters, patient, word
from tests.integration.server.clinic import clinic


async def test_a_proposal_is_booked_changed_and_cancelled(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        first, second = (await it.proposals(50, practitioner="Practitioner/dr-01"))[10:12]
        status, bundle, headers = await it.book(first, "ada")
        assert status == 201, bundle
        made = only(bundle)
        assert (made["status"], made["start"], made["end"]) == ("booked", first["start"], first["end"])
        assert headers["Location"] == f"{it.url}/fhir/Appointment/{made['id']}"
        assert headers["ETag"] == 'W/"1"'

        status, bundle, headers = await it.call(
            "/fhir/Appointment/$book", by_resource(made, start=second["start"], slot=second["slot"])
        )
        moved = only(bundle)
        assert (status, moved["id"], moved["start"], headers["ETag"]) == (200, made["id"], second["start"], 'W/"2"')
        assert "Location" not in headers

        status, bundle, _ = await it.call("/fhir/Appointment/$book", by_resource(moved, status="cancelled"))
        assert (status, only(bundle)["status"], only(bundle)["meta"]["versionId"]) == (200, "cancelled", "3")
        status, again, _ = await it.call("/fhir/Appointment/$book", by_resource(only(bundle), status="cancelled"))
        assert (status, only(again)["meta"]["versionId"]) == (200, "3")
        assert (await it.book(second, "bob"))[0] == 201


async def test_two_hundred_clients_for_one_slot_give_one_appointment(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        answers = await asyncio.gather(*(it.book(slot, f"patient-{n}") for n in range(200)))
        assert Counter(status for status, _, _ in answers) == {201: 1, 409: 199}
        assert {word(body) for status, body, _ in answers if status == 409} == {"slot-taken"}
        assert len(await it.rows()) == 1


async def test_a_patient_is_not_booked_twice_at_one_time(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (one,) = await it.proposals(1, practitioner="Practitioner/dr-01")
        (other,) = await it.proposals(1, practitioner="Practitioner/dr-03")
        assert one["start"] == other["start"]
        answers = await asyncio.gather(it.book(one, "ada"), it.book(other, "ada"))
        assert sorted(status for status, _, _ in answers) == [201, 409]
        assert {word(body) for status, body, _ in answers if status == 409} == {"patient-overlap"}


async def test_a_hold_keeps_the_slot_until_it_is_booked(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        status, bundle, _ = await it.call("/fhir/Appointment/$hold", by_reference(slot["id"]))
        held = only(bundle)
        assert (status, held["status"]) == (201, "pending")
        assert held["extension"][0]["valueInstant"]
        assert word((await it.book(slot, "bob"))[1]) == "slot-taken"
        assert slot["id"] not in {item["id"] for item in await it.proposals(5)}
        assert (await it.call(f"/fhir/Slot/{slot['id'].removeprefix('prop-')}"))[1]["status"] == "busy-tentative"
        status, bundle, headers = await it.call("/fhir/Appointment/$book", book_body(held["id"], "ada"))
        assert (status, only(bundle)["id"], only(bundle)["status"]) == (201, held["id"], "booked")
        assert headers["ETag"] == 'W/"2"'
        assert word((await it.call("/fhir/Appointment/$book", book_body(held["id"], "eve")))[1]) == "patient-differs"
        assert word((await it.call("/fhir/Appointment/$book", book_body(held["id"], "ada")))[1]) == "duplicate"


async def test_an_expired_hold_blocks_nobody(tmp_path: Path) -> None:
    async with clinic(tmp_path, rules=Rules(hold_ms=150)) as it:
        (slot,) = await it.proposals(1)
        status, bundle, _ = await it.call("/fhir/Appointment/$hold", by_reference(slot["id"]))
        assert status == 201
        async with asyncio.timeout(10):
            while (answer := await it.book(slot, "bob"))[0] == 409:
                await asyncio.sleep(0.02)
        assert answer[0] == 201, answer
        late = await it.call("/fhir/Appointment/$book", book_body(only(bundle)["id"], "ada"))
        assert (late[0], word(late[1])) == (409, "slot-taken")


async def test_versions_are_checked(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        first, second = (await it.proposals(50, practitioner="Practitioner/dr-01"))[10:12]
        made = only((await it.book(first, "ada"))[1])
        moved = by_resource(made, slot=second["slot"], start=second["start"])
        status, body, _ = await it.call("/fhir/Appointment/$book", moved, If_Match='W/"7"')
        assert (status, word(body)) == (412, "precondition-failed")
        assert (await it.call("/fhir/Appointment/$book", moved, If_Match='W/"1"'))[0] == 200
        status, body, _ = await it.call("/fhir/Appointment/$book", by_resource(made, status="cancelled"))
        assert (status, word(body)) == (409, "stale-version")


async def test_a_new_appointment_by_its_resource(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        slots = (await it.proposals(50))[10:13]
        by_slot = {
            "resourceType": "Appointment",
            "status": "pending",
            "slot": slots[0]["slot"],
            "participant": [{"actor": {"reference": "Patient/ada"}, "status": "accepted"}],
        }
        status, bundle, _ = await it.call("/fhir/Appointment/$book", by_resource(by_slot, comment="knee"))
        assert (status, only(bundle)["start"], only(bundle)["comment"]) == (201, slots[0]["start"], "knee")
        who = next(p["actor"] for p in slots[1]["participant"] if p["actor"]["reference"].startswith("Practitioner/"))
        by_time = {
            "resourceType": "Appointment",
            "status": "proposed",
            "start": slots[1]["start"],
            "participant": [{"actor": who, "status": "accepted"}],
        }
        body = parameters({"name": "appointment-resource", "resource": by_time}, patient("bob"))
        status, bundle, _ = await it.call("/fhir/Appointment/$book", body)
        assert (status, only(bundle)["slot"]) == (201, slots[1]["slot"])
        mixed = {**by_time, "slot": slots[2]["slot"]}
        body = parameters({"name": "appointment-resource", "resource": mixed}, patient("eve"))
        assert word((await it.call("/fhir/Appointment/$book", body))[1]) in ("slot-mismatch", "slot-taken")
