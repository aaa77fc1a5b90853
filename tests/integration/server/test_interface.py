"""The outside contract: what is refused and how, what comes out, what browsers and load balancers see."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.capabilitystatement import CapabilityStatement
from fhir.resources.R4B.operationoutcome import OperationOutcome

from server.app import serving
from tests.integration.server.bodies import (
    book_body,
    by_reference,
    by_resource,
    find_body,
    only,
    parameters,
    patient,
    word,
)
from tests.integration.server.clinic import HOST, Clinic, Json, clinic

BOOK, HOLD, FIND = (f"/fhir/Appointment/${name}" for name in ("book", "hold", "find"))
NOBODY = str(uuid.UUID(int=7))
SOON = datetime.now(UTC) + timedelta(hours=1)


def moment(name: str, text: str) -> Json:
    return {"name": name, "valueDateTime": text}


def bad_requests(slot: str) -> list[tuple[str, object, set[int]]]:
    """Path, body and the statuses that are right."""
    return [
        (BOOK, b"{", {400}),
        (BOOK, b"", {400}),
        (BOOK, b"\xff\xfe", {400}),
        (BOOK, b"[" * 100_000, {400}),
        (BOOK, [], {400, 422}),
        (BOOK, {"resourceType": "Patient"}, {422}),
        (BOOK, {"resourceType": "Parameters", "parameter": 7}, {422}),
        (BOOK, parameters(), {400}),
        (BOOK, parameters({"name": "appointment-reference"}), {400}),
        (BOOK, parameters({"name": "frobnicate", "valueString": "x"}), {422}),
        (BOOK, by_reference(slot), {400}),
        (BOOK, by_reference(slot, patient("a/b")), {400}),
        (BOOK, by_reference(slot, {"name": "patient-resource", "resource": {"resourceType": "Group"}}), {422}),
        (BOOK, by_reference(slot, patient("ada"), {"name": "comment", "valueString": "x" * 3_000}), {422}),
        (BOOK, by_reference(slot, patient("ada"), {"name": "comment", "valueString": "a\0b"}), {422}),
        (BOOK, book_body("no-such-proposal", "p"), {404}),
        (BOOK, book_body(f"prop-{NOBODY}", "p"), {404}),
        (BOOK, book_body(NOBODY, "p"), {404}),
        (BOOK, book_body("../../etc/passwd", "p"), {400, 404}),
        (BOOK, by_resource({"resourceType": "Appointment", "status": "dancing"}), {422}),
        (BOOK, by_resource({"resourceType": "Appointment", "status": "fulfilled", "id": NOBODY}), {404}),
        (BOOK, by_resource({"resourceType": "Appointment", "status": "cancelled"}), {422}),
        (BOOK, by_resource({"resourceType": "Appointment", "status": "pending", "start": "noon"}), {400}),
        (BOOK, by_resource({"resourceType": "Appointment", "status": 3}), {422}),
        (HOLD, by_reference(NOBODY), {409}),
        (HOLD, by_reference(f"prop-{NOBODY}"), {404}),
        (FIND, parameters(), {400}),
        (FIND, parameters(moment("start", "yesterday"), moment("end", "today")), {400}),
        (FIND, parameters(moment("start", "2026-01-01T09:00:00"), moment("end", "2026-01-02T09:00:00")), {400}),
        (FIND, find_body(SOON, SOON - timedelta(days=1)), {422}),
        (FIND, find_body(SOON, SOON + timedelta(days=400)), {422}),
        (FIND, find_body(SOON, SOON + timedelta(days=1), practitioner="Group/7"), {400}),
        (FIND, find_body(SOON, SOON + timedelta(days=1), insurance="Coverage/7"), {422}),
    ]


async def test_bad_input_is_refused_with_an_operation_outcome(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        for path, body, statuses in bad_requests(slot["id"]):
            content = body if isinstance(body, bytes) else msgspec.json.encode(body)
            status, outcome = await post(it, path, content)
            assert status in statuses, (path, content[:200], status, outcome)
        huge = msgspec.json.encode(book_body(slot["id"], "p")) + b" " * 4_000_000
        assert (await post(it, BOOK, huge))[0] == 413
        assert (await post(it, BOOK, b"{}", "text/plain"))[0] == 415
        assert (await post(it, BOOK, b"{}", "application/fhir+json; charset=utf-16"))[0] == 415
        assert (await post(it, BOOK, msgspec.json.encode(book_body(slot["id"], "p")), key="é" * 3))[0] == 400
        assert (await post(it, "/fhir/Nothing", b"{}"))[0] == 404
        assert (await post(it, "/fhir/Appointment", b"{}"))[0] == 405
        for path, expected in (
            ("/fhir/Appointment/nonsense", 404),
            (f"/fhir/Appointment/{NOBODY}", 404),
            (f"/fhir/Slot/{NOBODY}", 404),
            ("/fhir/Patient/nobody", 404),
            ("/fhir/Location/nowhere", 404),
            ("/fhir/Appointment?colour=blue", 400),
            ("/fhir/Appointment?date=tomorrow", 400),
            ("/fhir/Appointment?_count=-1", 400),
            ("/fhir/Appointment?patient=a,b", 400),
            ("/fhir/metadata?_format=xml", 406),
        ):
            status, outcome, _ = await it.call(path)
            assert status == expected, (path, outcome)
            OperationOutcome.model_validate(outcome)
        assert (await it.call("/fhir/metadata", Accept="application/fhir+xml"))[0] == 406
        assert (await it.call("/nothing"))[1]["error"] == "not_found"
        assert await it.rows() == []


async def test_a_slot_that_has_begun_is_not_booked(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        async with it.node.sql() as connection:
            past = await connection.fetchval("SELECT id FROM slot ORDER BY starts_at LIMIT 1")
            await connection.execute(
                "UPDATE slot SET starts_at = now() - interval '1 hour', ends_at = now() WHERE id = $1", past
            )
        for path, body in ((BOOK, book_body(f"prop-{past}", "ada")), (HOLD, by_reference(f"prop-{past}"))):
            status, outcome, _ = await it.call(path, body)
            assert (status, word(outcome)) == (422, "slot-past")
        assert await it.rows() == []


async def test_everything_that_comes_out_is_fhir(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        soon = datetime.now(UTC) + timedelta(hours=1)
        _, found, _ = await it.call(FIND, find_body(soon, soon + timedelta(days=2)))
        Bundle.model_validate(found)
        slot = found["entry"][0]["resource"]
        _, held, _ = await it.call(HOLD, by_reference(slot["id"], patient("ada")))
        Bundle.model_validate(held)
        _, made, _ = await it.call(BOOK, book_body(only(held)["id"], "ada"))
        Bundle.model_validate(made)
        CapabilityStatement.model_validate((await it.call("/fhir/metadata"))[1])
        day = only(made)["start"][:10]
        for path, total in (
            ("/fhir/Appointment?patient=Patient/ada", 1),
            ("/fhir/Appointment?actor=Practitioner/dr-01&status=booked,arrived", None),
            (f"/fhir/Appointment?date=ge{day}&date=le{day}", 1),
            ("/fhir/Appointment?date=lt2000-01-01", 0),
            (f"/fhir/Appointment?_id={only(made)['id']}", 1),
            ("/fhir/Slot?schedule=Schedule/dr-01&status=free&_count=5", None),
            ("/fhir/Slot?status=busy", 1),
            ("/fhir/Practitioner", 3),
            ("/fhir/Location", 5),
            ("/fhir/Schedule?actor=Practitioner/dr-02", 1),
        ):
            status, bundle, _ = await it.call(path)
            assert status == 200, (path, bundle)
            Bundle.model_validate(bundle)
            assert total is None or bundle["total"] == total, (path, bundle["total"])
        _, page, _ = await it.call("/fhir/Slot?schedule=dr-01&_count=7")
        links = {link["relation"]: link["url"] for link in page["link"]}
        _, following, _ = await it.call(links["next"].removeprefix(it.url))
        assert page["entry"][-1]["resource"]["start"] < following["entry"][0]["resource"]["start"]
        await follow_references(it, only(made))


async def follow_references(it: Clinic, resource: Json) -> None:
    """Whatever a resource refers to can be read, and so on."""
    seen: set[str] = set()
    waiting = [resource]
    while waiting:
        text = msgspec.json.encode(waiting.pop()).decode()
        for reference in set(re.findall(r'"reference":"([^"]+)"', text)) - seen:
            seen.add(reference)
            status, found, _ = await it.call(f"/fhir/{reference}")
            assert (status, f"{found['resourceType']}/{found['id']}") == (200, reference)
            Bundle.model_validate({"resourceType": "Bundle", "type": "collection", "entry": [{"resource": found}]})
            waiting.append(found)
    assert {name.split("/")[0] for name in seen} == {"Practitioner", "Location", "Patient", "Slot", "Schedule"}


async def test_times_carry_the_clinics_offset_and_zone(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        for who, zone in (("dr-01", "Europe/London"), ("dr-02", "Europe/Berlin")):
            slot = (await it.proposals(1, practitioner=f"Practitioner/{who}"))[0]
            assert slot["_start"]["extension"][0]["valueCode"] == zone
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT(0[89]|1[0-7]):\d\d:00[+-]\d\d:\d\d", slot["start"]), slot["start"]


async def test_browsers_of_allowed_origins_may_call(tmp_path: Path) -> None:
    async with clinic(tmp_path, cors_origins=["https://clinic.example"]) as it:
        good = {"Origin": "https://clinic.example", "Access-Control-Request-Method": "POST"}
        async with it.session.options(f"{it.url}{BOOK}", headers=good) as answer:
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Origin"] == "https://clinic.example"
            assert "Idempotency-Key" in answer.headers["Access-Control-Allow-Headers"]
        _, _, headers = await it.call("/fhir/metadata", Origin="https://clinic.example")
        for name in ("ETag", "Location", "Retry-After", "RateLimit", "X-Locum-Stale"):
            assert name in headers["Access-Control-Expose-Headers"]
        _, _, headers = await it.call("/fhir/metadata", Origin="https://evil.example")
        assert "Access-Control-Allow-Origin" not in headers


async def test_the_description_names_exactly_the_routes(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        _, described, _ = await it.call("/openapi.json")
        for path, operations in described["paths"].items():
            for method in operations:
                url = it.url + path.replace("{id}", NOBODY).replace("{version}", "1").replace("{key}", "none")
                async with it.session.request(method, url) as answer:
                    body = await answer.read()
                    # 404 only where the description says that the one thing may be missing
                    assert answer.status != 404 or "{" in path, (path, body)
                    assert answer.status != 405, path
        metrics = await it.session.get(f"{it.url}/metrics")
        assert "locum_server_requests_total" in await metrics.text()


async def test_the_second_server_on_a_port_says_so(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        assert it.shared is not None
        with pytest.raises(Exception, match="in use") as caught:
            async with serving(it.shared.settings):
                pass
        assert type(caught.value).__name__ == "PortOccupied"


async def post(it: Clinic, path: str, content: bytes, kind: str = "application/fhir+json", key: Any = None) -> Any:
    """A raw body: status and the OperationOutcome, which must be a valid one."""
    headers = {"Content-Type": kind} | ({"Idempotency-Key": key} if key else {})
    async with it.session.post(f"http://{HOST}:{it.port}{path}", data=content, headers=headers) as answer:
        body = msgspec.json.decode(await answer.read())
        if answer.status >= 400:
            OperationOutcome.model_validate(body)
        return answer.status, body
