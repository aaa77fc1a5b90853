"""An appointment that needs a piece of equipment besides a practitioner and a room has all of them or none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from server.clinic import load
from tests.integration.server.bodies import by_resource, only, word
from tests.integration.server.clinic import Clinic, Json, clinic

SHARED = """
[[sites]]
id = "north"
name = "Clinic North"
timezone = "UTC"
"""
_PERSON = """
[[practitioners]]
id = "dr-{n}"
given = "G"
family = "F"
specialty_code = "394579002"
specialty = "Cardiology"
site = "north"
room_id = "room-{n}"
room = "Room {n}"
{device}
[[practitioners.availability]]
minutes = 30
"""
_DEVICE = 'device_id = "ultrasound"\ndevice = "Ultrasound, ground floor"'
BOOK = "/fhir/Appointment/$book"


def file(root: Path) -> Path:
    """Two who share a device, and one who needs none."""
    path = root / "clinic.toml"
    path.write_text(SHARED + "".join(_PERSON.format(n=n, device=_DEVICE if n < 3 else "") for n in (1, 2, 3)))
    assert len(load(path).practitioners) == 3
    return path


def actor(resource: Json, kind: str) -> str:
    found = [who["actor"]["reference"] for who in resource["participant"]]
    return next((name for name in found if name.startswith(f"{kind}/")), "")


async def at_one_time(it: Clinic) -> dict[str, Json]:
    """The proposals of the earliest time that all three offer, by practitioner."""
    times: dict[str, dict[str, Json]] = {}
    for proposal in await it.proposals(60):
        times.setdefault(proposal["start"], {})[actor(proposal, "Practitioner")] = proposal
    return next(found for _, found in sorted(times.items()) if len(found) == 3)


async def test_who_shares_a_device_is_not_booked_at_the_same_time(tmp_path: Path) -> None:
    async with clinic(tmp_path, practitioners=0, clinic_file=file(tmp_path)) as it:
        found = await at_one_time(it)
        one, two, three = (found[f"Practitioner/dr-{n}"] for n in (1, 2, 3))
        assert (actor(one, "Device"), actor(three, "Device")) == ("Device/ultrasound", "")
        answers = await asyncio.gather(it.book(one, "ada"), it.book(two, "bob"), it.book(three, "eve"))
        by_status = sorted(status for status, _, _ in answers)
        assert by_status == [201, 201, 409], answers
        assert answers[2][0] == 201, "who needs no device is in nobody's way"
        refused = next(body for status, body, _ in answers if status == 409)
        assert word(refused) == "slot-taken"
        made = only(next(body for status, body, _ in answers[:2] if status == 201))
        assert actor(made, "Device") == "Device/ultrasound"
        # the whole or nothing: the loser holds neither the practitioner nor the room
        async with it.node.sql() as connection:
            assert await connection.fetchval("SELECT count(*) FROM appointment") == 2
            assert await connection.fetchval("SELECT locum_double_booked()") == 0
        offered = {(p["start"], actor(p, "Practitioner")) for p in await it.proposals(60)}
        assert not [who for start, who in offered if start == one["start"]], "$find offers what cannot be had"
        status, bundle, _ = await it.call("/fhir/Appointment?device=ultrasound")
        assert [entry["resource"]["id"] for entry in bundle["entry"]] == [made["id"]], status
        status, bundle, _ = await it.call(f"/fhir/Appointment?_id={made['id']}&_include=Appointment:device")
        assert [entry["resource"]["resourceType"] for entry in bundle["entry"]] == ["Appointment", "Device"], status
        status, device, _ = await it.call("/fhir/Device/ultrasound")
        assert (status, device["deviceName"][0]["name"]) == (200, "Ultrasound, ground floor")


async def test_a_move_takes_the_device_of_the_new_time_and_frees_the_old(tmp_path: Path) -> None:
    async with clinic(tmp_path, practitioners=0, clinic_file=file(tmp_path)) as it:
        found = await at_one_time(it)
        one, two, three = (found[f"Practitioner/dr-{n}"] for n in (1, 2, 3))
        taken, moved = only((await it.book(one, "ada"))[1]), only((await it.book(three, "eve"))[1])
        to_two = {"slot": two["slot"], "participant": [], "start": two["start"]}
        status, body, _ = await it.call(BOOK, by_resource(moved, **to_two))
        assert (status, word(body)) == (409, "slot-taken")
        status, body, _ = await it.call(BOOK, by_resource(taken, status="cancelled"))
        assert status == 200
        status, body, _ = await it.call(BOOK, by_resource(moved, **to_two))
        assert status == 200, body
        assert actor(only(body), "Device") == "Device/ultrasound"
        again = await it.call(f"/fhir/Appointment/{moved['id']}")
        assert actor(again[1], "Device") == "Device/ultrasound"


async def test_a_row_with_a_device_is_sealed_and_restored_with_it(tmp_path: Path) -> None:
    async with clinic(tmp_path, practitioners=0, clinic_file=file(tmp_path)) as it:
        found = await at_one_time(it)
        made = only((await it.book(found["Practitioner/dr-1"], "ada"))[1])
        async with it.node.sql() as connection:
            row = await connection.fetchrow("SELECT locum_digest(a) AS digest, a.seal FROM appointment a")
            without = "UPDATE appointment SET device_id = NULL RETURNING locum_digest(appointment)"
            assert await connection.fetchval(without) != row["digest"], "the device is part of what was promised"
            promised = msgspec.json.encode([{"id": made["id"], "version": 1, "digest": row["digest"]}]).decode()
            (why,) = await connection.fetch("SELECT why FROM locum_missing($1::jsonb)", promised)
            assert why["why"] == "altered"
            kept = await connection.fetchval("UPDATE appointment SET device_id = 'ultrasound' RETURNING id")
            receipt = await connection.fetchval("SELECT to_jsonb(f)::text FROM appointment_full f WHERE id = $1", kept)
            await connection.execute("DELETE FROM appointment WHERE id = $1", kept)
            assert await connection.fetchval("SELECT locum_restore($1::jsonb, '[]')", receipt)
            assert await connection.fetch("SELECT why FROM locum_missing($1::jsonb)", promised) == []
