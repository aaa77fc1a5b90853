"""With tokens: nobody sees another patient's appointment by any way, and a token that is not right opens nothing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey

from server.tokens import AuthSettings
from tests.integration.server.bodies import book_body, by_reference, by_resource, only, patient, word
from tests.integration.server.clinic import Clinic, Json, clinic

ISSUER, AUDIENCE = "https://issuer.example", "https://locum.example/fhir"
KEY = ECKey.generate_key("P-256", {"kid": "one", "use": "sig"}, private=True)
STAFF, PATIENT = "user/*.cruds", "patient/*.rs patient/Appointment.crus"
BOOK = "/fhir/Appointment/$book"


def token(sub: str = "staff", scope: str = STAFF, *, key: Any = KEY, header: Json | None = None, **claims: Any) -> str:
    said = {"iss": ISSUER, "aud": AUDIENCE, "sub": sub, "scope": scope, "exp": int(time.time()) + 600, **claims}
    return "Bearer " + jwt.encode(
        {"alg": "ES256", "kid": "one", **(header or {})},
        {name: value for name, value in said.items() if value is not None},
        key,
    )


def of(name: str) -> str:
    """A patient's token."""
    return token(f"sub-{name}", PATIENT, patient=name)


@asynccontextmanager
async def guarded(root: Path) -> AsyncIterator[Clinic]:
    keys = root / "jwks.json"
    keys.write_bytes(msgspec.json.encode({"keys": [KEY.as_dict(private=False)]}))
    async with clinic(root, auth=AuthSettings(issuer=ISSUER, audience=AUDIENCE, jwks_file=keys)) as it:
        yield it


async def free(it: Clinic, count: int, authorization: str | None = None) -> list[Json]:
    soon = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    path = f"/fhir/Slot?status=free&start=ge{soon}&_count=50"
    status, bundle, _ = await it.call(path, Authorization=authorization or token())
    assert status == 200, bundle
    return [entry["resource"] for entry in bundle["entry"]][:count]


async def test_a_patient_books_reads_and_cancels_his_own_and_finds_nothing_of_others(tmp_path: Path) -> None:
    async with guarded(tmp_path) as it:
        one, two, three = (f"prop-{slot['id']}" for slot in await free(it, 3))
        status, made, _ = await it.call(BOOK, by_reference(one), Authorization=of("ada"), Idempotency_Key="k")
        assert status == 201, made
        adas = only(made)
        assert {"reference": "Patient/ada"} in [who["actor"] for who in adas["participant"]], "it is for whoever asks"
        status, made, _ = await it.call(BOOK, book_body(two, "bob"), Authorization=token())
        assert status == 201, "staff book for anybody"
        bobs = only(made)
        # by id, in every way that a reading can be asked for
        for path in (f"/fhir/Appointment/{bobs['id']}", "/fhir/Patient/bob"):
            status, body, _ = await it.call(path, Authorization=of("ada"))
            assert (status, "bob" in msgspec.json.encode(body).decode().replace("Patient/bob", "")) == (404, False)
        assert (await it.call(f"/fhir/Appointment/{adas['id']}", Authorization=of("ada")))[0] == 200
        # by search
        for query, seen in (
            ("", [adas["id"]]),
            ("?patient=bob", []),
            ("?patient=ada", [adas["id"]]),
            (f"?_id={bobs['id']}", []),
        ):
            status, bundle, _ = await it.call(f"/fhir/Appointment{query}", Authorization=of("ada"))
            assert [entry["resource"]["id"] for entry in bundle.get("entry", [])] == seen, query
        # by idempotency key: another caller's key is another key
        status, body, _ = await it.call(BOOK, by_reference(three), Authorization=of("eve"), Idempotency_Key="k")
        assert status == 201
        assert only(body)["id"] != adas["id"]
        # changes of others' appointments: not there, whatever else is wrong with the request
        for changed in (
            {"status": "cancelled"},
            {"comment": "mine"},
            {"meta": {"versionId": "9"}, "status": "cancelled"},
        ):
            for headers in ({}, {"If_Match": 'W/"7"'}):
                status, body, _ = await it.call(
                    BOOK, by_resource(_bare(bobs), **changed), Authorization=of("ada"), **headers
                )
                assert (status, word(body)) == (404, "appointment-unknown"), changed
        status, body, _ = await it.call(BOOK, book_body(one, "bob"), Authorization=of("ada"))
        assert (status, word(body)) == (403, "forbidden")
        status, body, _ = await it.call(BOOK, by_resource(adas, status="cancelled"), Authorization=of("ada"))
        assert status == 200, body


def _bare(appointment: Json) -> Json:
    """As somebody writes it who knows no more than the id."""
    return {"resourceType": "Appointment", "id": appointment["id"], "status": "booked"}


async def test_a_hold_of_a_patient_is_nobody_elses(tmp_path: Path) -> None:
    async with guarded(tmp_path) as it:
        (slot,) = await free(it, 1)
        status, held, _ = await it.call(
            "/fhir/Appointment/$hold", by_reference(f"prop-{slot['id']}"), Authorization=of("ada")
        )
        assert status == 201
        hold = only(held)["id"]
        assert (await it.call(f"/fhir/Appointment/{hold}", Authorization=of("bob")))[0] == 404
        status, body, _ = await it.call(BOOK, by_reference(hold, patient("bob")), Authorization=of("bob"))
        assert (status, word(body)) == (404, "appointment-unknown")
        assert (await it.call(BOOK, by_reference(hold), Authorization=of("ada")))[0] == 201


BAD: dict[str, str | None] = {
    "none": None,
    "no bearer": "Basic YWRhOmFkYQ==",
    "no token": "Bearer ",
    "noise": "Bearer abc.def.ghi",
    "expired": token(exp=int(time.time()) - 120),
    "no expiry": token(exp=None),
    "not yet": token(nbf=int(time.time()) + 600),
    "another issuer": token(iss="https://evil.example"),
    "another audience": token(aud="https://other.example"),
    "another key": token(key=ECKey.generate_key("P-256", {"kid": "one"}, private=True)),
    "an unknown key": token(header={"kid": "two"}),
    "no subject": token(sub=None),
    "symmetric": token(key=OctKey.import_key(msgspec.json.encode(KEY.as_dict(private=False))), header={"alg": "HS256"}),
    "unsigned": "Bearer eyJhbGciOiJub25lIn0."
    + jwt.encode(
        {"alg": "ES256"}, {"iss": ISSUER, "aud": AUDIENCE, "sub": "staff", "scope": STAFF, "exp": 9999999999}, KEY
    ).split(".")[1]
    + ".",
}


@pytest.mark.filterwarnings("ignore::UserWarning")
async def test_a_token_that_is_not_right_is_401_everywhere_and_says_so_in_fhir(tmp_path: Path) -> None:
    async with guarded(tmp_path) as it:
        for why, authorization in BAD.items():
            headers = {} if authorization is None else {"Authorization": authorization}
            for path, body in (("/fhir/Slot", None), ("/fhir/Appointment/x", None), (BOOK, book_body("prop-x", "ada"))):
                status, answer, answered = await it.call(path, body, **headers)
                assert (status, word(answer)) == (401, "login"), (why, path, answer)
                assert answered["WWW-Authenticate"].startswith("Bearer"), why
        for open_path in ("/fhir/metadata", "/livez", "/readyz", "/openapi.json"):
            assert (await it.call(open_path))[0] == 200


async def test_scopes_open_only_what_they_name(tmp_path: Path) -> None:
    async with guarded(tmp_path) as it:
        (slot,) = await free(it, 1)
        reading = token(scope="user/Slot.rs user/Appointment.rs")
        status, body, headers = await it.call(BOOK, book_body(f"prop-{slot['id']}", "ada"), Authorization=reading)
        assert (status, word(body)) == (403, "forbidden")
        assert "insufficient_scope" in headers["WWW-Authenticate"]
        assert (await it.call("/fhir/Practitioner", Authorization=reading))[0] == 403
        assert (await it.call("/fhir/Slot", Authorization=reading))[0] == 200


async def test_every_write_leaves_an_audit_event_in_its_own_transaction(tmp_path: Path) -> None:
    async with guarded(tmp_path) as it:
        one, two = (f"prop-{slot['id']}" for slot in await free(it, 2))
        made = only((await it.call(BOOK, by_reference(one), Authorization=of("ada")))[1])
        await it.call(BOOK, by_resource(made, status="cancelled"), Authorization=of("ada"))
        assert (await it.call("/fhir/Appointment/$hold", by_reference(two), Authorization=of("ada")))[0] == 201
        assert (await it.call(BOOK, by_reference(two), Authorization=of("bob")))[0] == 409
        async with it.node.sql() as connection:
            rows = await connection.fetch("SELECT agent, action, operation, patient_id FROM audit_event ORDER BY id")
        assert [tuple(row) for row in rows] == [
            ("sub-ada", "C", "book", "ada"),
            ("sub-ada", "U", "cancel", "ada"),
            ("sub-ada", "C", "hold", "ada"),
        ]


async def test_nothing_of_another_patient_is_included(tmp_path: Path) -> None:
    async with guarded(tmp_path) as it:
        one, two = (f"prop-{slot['id']}" for slot in await free(it, 2))
        assert (await it.call(BOOK, by_reference(one), Authorization=of("ada")))[0] == 201
        assert (await it.call(BOOK, book_body(two, "bob"), Authorization=token()))[0] == 201
        for query in (
            "_include=Appointment:patient",
            "_include=Appointment:actor",
            "_include=Appointment:patient&patient=Patient/bob",
            "_include=Appointment:patient&actor=Patient/bob",
            "_include=Appointment:patient&date=ge2020-01-01",
        ):
            status, bundle, _ = await it.call(f"/fhir/Appointment?{query}", Authorization=of("ada"))
            assert status == 200, bundle
            found = {f"{e['resource']['resourceType']}/{e['resource']['id']}" for e in bundle.get("entry", [])}
            assert not [name for name in found if name.startswith("Patient/") and name != "Patient/ada"], query
            assert "bob" not in msgspec.json.encode(bundle.get("entry", [])).decode(), query
        status, bundle, _ = await it.call("/fhir/Appointment?_include=Appointment:patient", Authorization=token())
        included = {e["resource"]["id"] for e in bundle["entry"] if e["resource"]["resourceType"] == "Patient"}
        assert included == {"ada", "bob"}, "staff see both"
