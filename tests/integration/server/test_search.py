"""Searches: every parameter narrows, pages stay where they were while others book, and what is referred to comes along."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import pytest
from fhir.resources.R4B.bundle import Bundle

from tests.integration.server.bodies import by_resource, only, word
from tests.integration.server.clinic import Clinic, Json, clinic


async def found(it: Clinic, path: str) -> list[Json]:
    status, bundle, _ = await it.call(path)
    assert status == 200, (path, bundle)
    Bundle.model_validate(bundle)
    return [entry["resource"] for entry in bundle.get("entry", []) if entry["search"]["mode"] == "match"]


def ids(resources: list[Json]) -> list[str]:
    return [resource["id"] for resource in resources]


async def test_appointments_are_found_by_everything_that_booking_needs(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        slots = [slot for who in (1, 2, 3) for slot in await it.proposals(2, practitioner=f"Practitioner/dr-0{who}")]
        made = [only((await it.book(slot, f"p{n}"))[1]) for n, slot in enumerate(slots)]
        await it.call("/fhir/Appointment/$book", by_resource(made[0], status="cancelled"))
        one = made[3]
        slot = one["slot"][0]["reference"]
        assert ids(await found(it, f"/fhir/Appointment?slot={slot}")) == [one["id"]]
        assert ids(await found(it, f"/fhir/Appointment?slot={slot.removeprefix('Slot/')}")) == [one["id"]]
        assert ids(await found(it, "/fhir/Appointment?slot=Slot/none-of-ours")) == []
        assert len(await found(it, "/fhir/Appointment?practitioner=dr-01,dr-02")) == 4
        assert len(await found(it, "/fhir/Appointment?status=booked&practitioner=dr-01,dr-02")) == 3
        assert len(await found(it, "/fhir/Appointment?location=Location/room-03")) == 2
        starts = [item["start"] for item in await found(it, "/fhir/Appointment?_sort=-date")]
        moments = [datetime.fromisoformat(start) for start in starts]
        assert moments == sorted(moments, reverse=True)
        assert len(moments) == 6


async def test_slots_are_found_by_specialty_and_several_schedules_and_states(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1, practitioner="Practitioner/dr-01")
        await it.book(slot, "ada")
        code = slot["specialty"][0]["coding"][0]["code"]
        of_service = await found(it, f"/fhir/Slot?service-type={code}&_count=1000")
        assert {item["schedule"]["reference"] for item in of_service} == {"Schedule/dr-01"}
        assert ids(of_service) == ids(
            await found(it, f"/fhir/Slot?specialty=http://snomed.info/sct|{code}&_count=1000")
        )
        states = {
            item["status"] for item in await found(it, "/fhir/Slot?schedule=dr-01,dr-02&status=free,busy&_count=1000")
        }
        assert states == {"free", "busy"}
        start = datetime.fromisoformat(slot["start"]).astimezone(UTC)
        window = f"start=ge{start:%Y-%m-%dT%H:%M:%SZ}&start=lt{start + timedelta(minutes=15):%Y-%m-%dT%H:%M:%SZ}"
        (busy,) = await found(it, f"/fhir/Slot?schedule=dr-01&{window}")
        assert (busy["status"], f"prop-{busy['id']}") == ("busy", slot["id"])


async def pages(it: Clinic, path: str) -> list[str]:
    """All ids, page by page; between two pages somebody books."""
    seen: list[str] = []
    url: str | None = f"{it.url}{path}"
    free = iter(await it.proposals(40))
    number = 0
    while url is not None:
        _, bundle, _ = await it.call(url.removeprefix(it.url))
        seen += ids([entry["resource"] for entry in bundle.get("entry", [])])
        url = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), None)
        number += 1
        assert (await it.book(next(free), f"other{number}"))[0] == 201
    return seen


@pytest.mark.parametrize("sort", ["", "&_sort=-start"])
async def test_pages_neither_repeat_nor_leave_out_what_was_there_while_others_book(tmp_path: Path, sort: str) -> None:
    async with clinic(tmp_path) as it:
        wanted = ids(await found(it, f"/fhir/Slot?schedule=dr-01&_count=1000{sort}"))
        seen = await pages(it, f"/fhir/Slot?schedule=dr-01&_count=90{sort}")
        assert seen == wanted
        assert len(seen) > 500


async def test_a_page_says_how_many_there_are_and_a_made_up_cursor_is_refused(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        _, first, _ = await it.call("/fhir/Slot?schedule=dr-01&_count=7")
        everything = await found(it, "/fhir/Slot?schedule=dr-01&_count=1000")
        assert (first["total"], len(first["entry"])) == (len(everything), 7)
        for cursor in ("x", "W10=", "eyJhIjoxfQ==", "A" * 300):
            status, outcome, _ = await it.call(f"/fhir/Slot?_cursor={cursor}")
            assert (status, word(outcome)) == (400, "value")


async def test_a_search_may_be_posted(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        made = only((await it.book(slot, "ada"))[1])
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        for kind, words, wanted in (
            ("Appointment", {"patient": "Patient/ada", "status": "booked"}, [made["id"]]),
            ("Appointment", {"patient": "Patient/bob"}, []),
            ("Schedule", {"_id": "dr-01"}, ["dr-01"]),
        ):
            url = f"{it.url}/fhir/{kind}/_search"
            async with it.session.post(url, data=urlencode(words), headers=headers) as answer:
                bundle = msgspec.json.decode(await answer.read())
                assert answer.status == 200, bundle
                assert ids([entry["resource"] for entry in bundle.get("entry", [])]) == wanted
        async with it.session.post(f"{it.url}/fhir/Slot/_search", json={}) as answer:
            assert answer.status == 415


async def test_what_is_referred_to_comes_along_when_it_is_asked_for(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        made = only((await it.book(slot, "ada"))[1])
        _, bundle, _ = await it.call(
            "/fhir/Appointment?patient=ada&_include=Appointment:patient&_include=Appointment:practitioner"
        )
        modes = [(entry["search"]["mode"], entry["resource"]["resourceType"]) for entry in bundle["entry"]]
        assert modes == [("match", "Appointment"), ("include", "Patient"), ("include", "Practitioner")]
        _, bundle, _ = await it.call("/fhir/Appointment?patient=ada&_include=Appointment:actor")
        assert {entry["resource"]["resourceType"] for entry in bundle["entry"]} == {
            "Appointment", "Patient", "Practitioner", "Location"}  # fmt: skip
        status, outcome, _ = await it.call("/fhir/Appointment?_include=Appointment:colour")
        assert (status, word(outcome)) == (400, "not-supported")
        _, bundle, _ = await it.call("/fhir/PractitionerRole?_include=PractitionerRole:service")
        kinds = [entry["resource"]["resourceType"] for entry in bundle["entry"]]
        assert (kinds.count("PractitionerRole"), kinds.count("HealthcareService")) == (3, 3)
        Bundle.model_validate(bundle)
        status, version, _ = await it.call(f"/fhir/Appointment/{made['id']}/_history/1")
        assert (status, version) == (200, made)
        assert (await it.call(f"/fhir/Appointment/{made['id']}/_history/2"))[0] == 404


async def test_searches_side_by_side_with_bookings_never_fail(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        slots = await it.proposals(40)
        booked = asyncio.gather(*(it.book(slot, f"p{n % 7}") for n, slot in enumerate(slots)))
        for _ in range(20):
            await found(it, "/fhir/Appointment?patient=p1")
            await found(it, "/fhir/Slot?_count=20")
        assert {status for status, _, _ in await booked} <= {201, 409}
