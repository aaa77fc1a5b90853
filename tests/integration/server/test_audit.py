"""Who looked at what is written down, through a failover too, and can be read by those who may."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from fhir.resources.R4B.auditevent import AuditEvent

from server.app import serving
from tests.integration.server.bodies import book_body, only
from tests.integration.server.clinic import Clinic, Json, clinic, until
from tests.integration.server.test_access import BOOK, free, guarded, of, token
from tests.ports import free_port


async def events(it: Clinic, query: str = "", **headers: str) -> list[Json]:
    status, bundle, _ = await it.call(f"/fhir/AuditEvent?_count=1000&{query}", **headers)
    assert status == 200, bundle
    found = [entry["resource"] for entry in bundle.get("entry", [])]
    for one in found:
        AuditEvent.model_validate(one)
    return found


async def written(it: Clinic, count: int) -> None:
    """So many accesses are in the table."""

    async def counted() -> int:
        async with it.node.sql() as connection:
            return int(await connection.fetchval("SELECT count(*) FROM audit_event WHERE action IN ('R', 'E')"))

    async with asyncio.timeout(10):
        while await counted() < count:
            await asyncio.sleep(0.05)
    assert await counted() == count


async def test_every_look_at_a_patients_data_is_written_down(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (proposal,) = await it.proposals(1)
        made = only((await it.book(proposal, "ada", Idempotency_Key="k"))[1])
        where = f"/fhir/Appointment/{made['id']}"
        for path in (
            where,
            f"{where}/_history/1",
            "/fhir/Patient/ada",
            "/fhir/Appointment?patient=ada",
            "/idempotency/k",
        ):
            assert (await it.call(path))[0] == 200, path
        assert (await it.call(where, If_None_Match='W/"1"'))[0] == 304
        assert (await it.call("/fhir/Appointment/no-such"))[0] == 404
        await written(it, 6)
        found = await events(it, "patient=Patient/ada")
        said = [(one["action"], one["subtype"][0]["code"], one["entity"][0]) for one in found]
        of_row = {"what": {"reference": f"Appointment/{made['id']}"}}
        assert said == [
            ("C", "book", of_row),
            ("R", "read", of_row),
            ("R", "vread", of_row),
            ("R", "read", {"what": {"reference": "Patient/ada"}}),
            ("E", "search-type", {"name": "Appointment?patient"}),
            ("R", "read", of_row),
            ("R", "read", of_row),
        ]
        assert len(await events(it, "action=R")) == 5
        assert len(await events(it, f"entity=Appointment/{made['id']}&_sort=-date")) == 5
        status, one, _ = await it.call(f"/fhir/AuditEvent/{found[0]['id']}")
        assert (status, one) == (200, found[0])
        assert (await it.call("/fhir/AuditEvent?action=X"))[0] == 400


async def test_accesses_wait_for_the_next_primary_and_are_written_once(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (proposal,) = await it.proposals(1)
        made = only((await it.book(proposal, "ada"))[1])
        assert it.shared is not None
        await it.node.kill()
        it.shared.audit.note("anonymous", "read", f"Appointment/{made['id']}", "ada")
        await it.node.start(2)
        it.publish(2, it.node)
        await written(it, 1)
        await until(lambda: it.shared is not None and it.shared.audit.dropped == 0)


async def test_what_was_seen_last_is_written_when_the_server_ends(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        assert it.shared is not None
        changed = {
            "name": "second",
            "listen_port": free_port(),
            "state_dir": tmp_path / "second",
            "demo_practitioners": 0,
        }
        async with serving(msgspec.structs.replace(it.shared.settings, **changed)) as second:
            await until(lambda: second.database.primary is not None)
            second.audit.note("staff", "read", "Patient/ada", "ada")
        await written(it, 1)


async def test_a_patient_sees_who_looked_at_his_own_and_nothing_else(tmp_path: Path) -> None:
    async with guarded(tmp_path) as it:
        one, two = (f"prop-{slot['id']}" for slot in await free(it, 2))
        for proposal, who in ((one, "ada"), (two, "bob")):
            assert (await it.call(BOOK, book_body(proposal, who), Authorization=token()))[0] == 201
            assert (await it.call(f"/fhir/Appointment?patient={who}", Authorization=token()))[0] == 200
        await written(it, 2)
        own = await events(it, Authorization=of("ada"))
        assert {one["subtype"][0]["code"] for one in own} == {"book", "search-type"}
        assert "bob" not in str(own)
        assert await events(it, "patient=bob", Authorization=of("ada")) == []
        bobs = (await events(it, "patient=bob", Authorization=token()))[0]
        assert (await it.call(f"/fhir/AuditEvent/{bobs['id']}", Authorization=of("ada")))[0] == 404
        assert (await it.call(f"/fhir/AuditEvent/{bobs['id']}", Authorization=token()))[0] == 200
        narrow = token("x", "user/Appointment.cruds")
        assert (await it.call("/fhir/AuditEvent", Authorization=narrow))[0] == 403
