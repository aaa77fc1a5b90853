"""Strings that mean something to SQL, to HTTP or to a log, through everything that a client may send: they are values, and no more."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from server.searching import SEARCHES
from tests.integration.server.bodies import book_body, by_reference, by_resource, only, parameters
from tests.integration.server.clinic import Clinic, clinic

BOOK, HOLD, FIND = (f"/fhir/Appointment/${name}" for name in ("book", "hold", "find"))
STRINGS = (
    "'; DROP TABLE appointment; --",
    "' OR '1'='1",
    "1) UNION SELECT key, digest FROM idempotency --",
    "$1",
    "\\'; SELECT pg_sleep(10); --",
    "%27%20OR%201%3D1",
    "a\r\nX-Evil: 1\r\n\r\n<script>",
    "{{7*7}}${jndi:ldap://x}",
    "../../../../etc/passwd",
    "\u202eevil\ufeff",
)
_HEADERS = (
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "If-None-Exist",
    "Accept",
    "Origin",
    "Prefer",
    "X-Request-Id",
)


async def state(it: Clinic) -> list[Any]:
    """Every row that a client could have changed, and the tables that there are."""
    async with it.node.sql() as connection:
        tables = await connection.fetch("SELECT relname, relnatts FROM pg_class WHERE relkind IN ('r', 'v') ORDER BY 1")
        rows = await connection.fetch("SELECT id, version, status, patient_id, comment FROM appointment ORDER BY id")
        names = await connection.fetch("SELECT id, name FROM patient ORDER BY id")
        return [[tuple(row) for row in found] for found in (tables, rows, names)]


async def test_a_query_is_only_a_value(clinic_with_one: Clinic) -> None:
    for text in STRINGS:
        await through_a_query(clinic_with_one, text)


async def through_a_query(it: Clinic, text: str) -> None:
    before = await state(it)
    for kind, words in SEARCHES.items():
        for word in (*words, "_count", "_cursor", "_format", "_sort", "_include", "no-such", text):
            status, body, _ = await it.call(f"/fhir/{kind}?{quote(word)}={quote(text)}")
            assert status in (200, 400, 406, 422), (kind, word, status, body)
            matches = [one for one in body.get("entry", []) if one["search"]["mode"] == "match"]
            narrows = word not in ("_count", "_cursor", "_format", "_sort", "_include")
            assert status != 200 or not (narrows and matches), f"{word}={text} matched something"
        status, _, _ = await it.call(f"/fhir/{kind}/{quote(text, safe='')}")
        assert status in (400, 404, 405), (kind, status)
    for path in (f"/idempotency/{quote(text, safe='')}", f"/{quote(text, safe='')}", f"/fhir/{quote(text, safe='')}"):
        status, _, _ = await it.call(path)
        assert status in (400, 403, 404, 405), (path, status)
    assert await state(it) == before


async def test_a_body_is_only_values(clinic_with_one: Clinic) -> None:
    for text in STRINGS:
        await through_a_body(clinic_with_one, text)


async def through_a_body(it: Clinic, text: str) -> None:
    mine = (await it.call("/fhir/Appointment?patient=ada"))[1]["entry"][0]["resource"]
    before = await state(it)
    value = {"valueString": text, "valueCode": text, "valueReference": {"reference": text}, "valueDateTime": text}
    for name in ("start", "end", "practitioner", "location-reference", "specialty", "_count", text):
        for item in value.items():
            status, body, _ = await it.call(FIND, parameters({"name": name, **dict([item])}))
            assert status in (400, 404, 422), (name, item, body)
    for reference in (text, f"Appointment/{text}", f"Appointment/prop-{text}"):
        for path in (BOOK, HOLD):
            status, body, _ = await it.call(path, by_reference(reference))
            assert status in (400, 404, 422), (path, body)
    for field in ("id", "status", "start"):
        status, body, _ = await it.call(BOOK, by_resource(mine, **{field: text}))
        assert status in (400, 404, 422), (field, body)
    for field in ("slot", "participant"):
        wrong = [{"reference": text, "actor": {"reference": f"Practitioner/{text}"}}]
        status, body, _ = await it.call(BOOK, by_resource(mine, **{field: wrong}))
        assert status in (400, 404, 422), (field, body)
    proposal = (await it.proposals(1))[0]["id"]
    status, body, _ = await it.call(BOOK, book_body(proposal, text))
    assert status in (400, 422), body
    assert await state(it) == before


async def test_a_comment_and_a_name_come_back_as_they_were_said(clinic_with_one: Clinic) -> None:
    for text in STRINGS:
        await through_a_text(clinic_with_one, text)


async def through_a_text(it: Clinic, text: str) -> None:
    (proposal,) = await it.proposals(1)
    patient = {
        "name": "patient-resource",
        "resource": {"resourceType": "Patient", "id": "eve", "name": [{"text": text}]},
    }
    reference = {"name": "appointment-reference", "valueReference": {"reference": f"Appointment/{proposal['id']}"}}
    status, body, _ = await it.call(BOOK, parameters(reference, patient, {"name": "comment", "valueString": text}))
    assert status == 201, body
    made = only(body)
    assert made["comment"] == text
    assert (await it.call(f"/fhir/Appointment/{made['id']}"))[1]["comment"] == text
    assert (await it.call("/fhir/Patient/eve"))[1]["name"][0]["text"] is not None
    assert (await it.call(BOOK, by_resource(made, status="cancelled")))[0] == 200
    async with it.node.sql() as connection:
        assert await connection.fetchval("SELECT count(*) FROM appointment WHERE comment = $1", text) > 0


async def test_a_header_makes_no_header_and_a_path_none_either(clinic_with_one: Clinic) -> None:
    for text in STRINGS:
        await through_a_header(clinic_with_one, text)


async def through_a_header(it: Clinic, text: str) -> None:
    for name in _HEADERS:
        answer = await raw(it, "/fhir/Location", {name: quote(text, safe=" ';=()-$1{}*/:.<>")})
        assert answer.startswith(b"HTTP/1.1 ")
        assert int(answer[9:12]) < 500, answer
        assert b"x-evil" not in answer.partition(b"\r\n\r\n")[0].lower()
    for path in (
        f"/{quote(text, safe='')}",
        f"/fhir/Appointment/{quote(text, safe='')}",
        f"/fhir/Slot?start={quote(text)}",
    ):
        answer = await raw(it, path, {"Origin": "https://evil.example"})
        assert int(answer[9:12]) < 500, answer
        assert b"\r\nx-evil" not in answer.partition(b"\r\n\r\n")[0].lower()


async def raw(it: Clinic, path: str, headers: dict[str, str]) -> bytes:
    """The answer, byte by byte."""
    at = urlsplit(it.url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    try:
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {at.netloc}",
            "Connection: close",
            *(f"{k}: {v}" for k, v in headers.items()),
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode("utf-8"))
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


@pytest.fixture
async def clinic_with_one(tmp_path: Path) -> Any:
    """One appointment of ada's."""
    async with clinic(tmp_path) as it:
        (proposal,) = await it.proposals(1)
        assert (await it.book(proposal, "ada"))[0] == 201
        yield it
