"""The read guard: what was acknowledged is served as it was acknowledged, or not at all; guilty is who is proved to be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from replication.model import FaultKind
from server.seal import row_key
from tests.integration.server.bodies import by_resource, only
from tests.integration.server.clinic import TOKEN, Clinic, Node, clinic, standby_of

FORGERIES = {
    "altered": "UPDATE appointment SET comment = 'forged' WHERE id = $1",
    "older": "UPDATE appointment SET version = 1, status = 'booked' WHERE id = $1",
    "missing": "DELETE FROM appointment WHERE id = $1",
}

# Put in anew while the primary key takes no entries.
UNINDEXED = (
    "UPDATE pg_index SET indisready = false WHERE indexrelid = 'appointment_pkey'::regclass",
    """
    SET session_replication_role = replica;
    CREATE TEMP TABLE kept AS SELECT * FROM appointment;
    DELETE FROM appointment;
    INSERT INTO appointment SELECT * FROM kept;
    """,
    "UPDATE pg_index SET indisready = true WHERE indexrelid = 'appointment_pkey'::regclass",
)

LATER = (
    (
        "UPDATE appointment SET created_at = created_at + interval '1 microsecond'",
        "UPDATE appointment SET created_at = created_at - interval '1 microsecond'",
    ),
    (
        "UPDATE appointment SET updated_at = updated_at + interval '1 microsecond'",
        "UPDATE appointment SET updated_at = updated_at - interval '1 microsecond'",
    ),
)


@asynccontextmanager
async def with_standby(it: Clinic, root: Path) -> AsyncIterator[Node]:
    """A standby that the topology calls proved."""
    standby = await standby_of(it.node, root)
    try:
        await standby.start(1)
        it.publish(1, it.node, standbys=(standby,))
        yield standby
    finally:
        await standby.kill()


async def changed_appointment(it: Clinic) -> str:
    """One that was booked, then cancelled: its id."""
    (slot,) = await it.proposals(1)
    made = only((await it.book(slot, "ada"))[1])
    assert (await it.call("/fhir/Appointment/$book", by_resource(made, status="cancelled")))[0] == 200
    return str(made["id"])


async def replayed(standby: Node, appointment: str, version: int) -> None:
    async with standby.sql() as connection, asyncio.timeout(10):
        query = "SELECT version FROM appointment WHERE id = $1"
        while await connection.fetchval(query, appointment) != version:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_wrong_row_is_not_served_and_the_standby_that_has_it_right_is_proof(
    tmp_path: Path, forgery: str
) -> None:
    """Replay is paused, so that what is done to the primary behind the server's back stays the primary's alone."""
    async with clinic(tmp_path, request_deadline_ms=1_500) as it, with_standby(it, tmp_path) as standby:
        appointment = await changed_appointment(it)
        await replayed(standby, appointment, 2)
        async with standby.sql() as connection:
            await connection.execute("SELECT pg_wal_replay_pause()")
        convicted = asyncio.create_task(it.wait_report(lambda report: report.faults, deadline_s=15))
        async with it.node.sql() as connection:
            await connection.execute(FORGERIES[forgery], appointment)
        status, _, _ = await it.call(f"/fhir/Appointment/{appointment}")
        assert status == 503, "neither the wrong row nor a 404"
        (fault,) = (await convicted).faults
        kind = FaultKind.SEAL_MISMATCH if forgery == "altered" else FaultKind.ROW_MISSING
        assert (fault.kind, fault.is_proof) == (kind, True)
        assert forgery in fault.sentence


async def test_a_row_that_nobody_reads_is_found_by_the_patrol(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it, with_standby(it, tmp_path) as standby:
        appointment = await changed_appointment(it)
        await replayed(standby, appointment, 2)
        async with standby.sql() as connection:
            await connection.execute("SELECT pg_wal_replay_pause()")
        convicted = asyncio.create_task(it.wait_report(lambda report: report.faults, deadline_s=15))
        async with it.node.sql() as connection:
            await connection.execute(FORGERIES["altered"], appointment)
        assert (await convicted).faults[0].kind is FaultKind.SEAL_MISMATCH


async def test_a_row_that_its_index_does_not_lead_to_counts_as_missing(tmp_path: Path) -> None:
    """It lies in the table, where a plan that reads all of it would find it; who asks by its id does not."""
    async with clinic(tmp_path) as it, with_standby(it, tmp_path) as standby:
        appointment = await changed_appointment(it)
        await replayed(standby, appointment, 2)
        async with standby.sql() as connection:
            await connection.execute("SELECT pg_wal_replay_pause()")
        convicted = asyncio.create_task(it.wait_report(lambda report: report.faults, deadline_s=15))
        for step in UNINDEXED:
            async with it.node.sql() as connection:
                await connection.execute(step)
        async with it.node.sql() as connection:
            assert await connection.fetchval("SELECT count(*) FROM appointment") == 1
        assert (await convicted).faults[0].kind is FaultKind.ROW_MISSING


async def test_where_both_nodes_say_the_same_nobody_is_blamed_and_the_row_is_restored(tmp_path: Path) -> None:
    async with clinic(tmp_path, request_deadline_ms=1_500) as it, with_standby(it, tmp_path):
        appointment = await changed_appointment(it)
        told = asyncio.create_task(
            it.wait_report(lambda report: report.receipts is not None and report.receipts.restored == 1, deadline_s=20)
        )
        async with it.node.sql() as connection:
            await connection.execute(FORGERIES["missing"], appointment)
        report = await told
        assert report.receipts is not None
        assert report.receipts.lost == 0
        assert report.faults == ()
        status, found, _ = await it.call(f"/fhir/Appointment/{appointment}")
        assert (status, found["status"], found["meta"]["versionId"]) == (200, "cancelled", "2")


async def test_what_is_right_is_served_and_never_suspected(tmp_path: Path) -> None:
    """Bookings, changes and reads side by side, the patrol among them."""
    async with clinic(tmp_path) as it, with_standby(it, tmp_path):
        made = [only((await it.book(slot, f"p{n}"))[1]) for n, slot in enumerate(await it.proposals(30))]

        async def cancel_and_read(number: int) -> None:
            resource = made[number]
            assert (await it.call("/fhir/Appointment/$book", by_resource(resource, status="cancelled")))[0] == 200
            status, found, _ = await it.call(f"/fhir/Appointment/{resource['id']}")
            assert (status, found["status"]) == (200, "cancelled")
            assert (await it.call(f"/fhir/Appointment?patient=p{number}"))[0] == 200

        for turn in range(3):
            await asyncio.gather(*(cancel_and_read(number) for number in range(turn, 30, 3)))
        report = await it.wait_report(lambda _report: True)
        assert report.faults == ()
        assert it.shared is not None
        assert (it.shared.guard.refused, it.shared.guard.convicted) == (0, 0)


BEHIND_ITS_BACK = """
ALTER TABLE appointment DISABLE TRIGGER appointment_sealed;
UPDATE appointment SET comment = 'forged';
ALTER TABLE appointment ENABLE TRIGGER appointment_sealed
"""


async def forget_receipts(it: Clinic, appointment: str) -> None:
    """As after two hours and a certificate: nobody knows any more what was acknowledged."""
    assert it.shared is not None
    receipts = it.shared.receipts
    receipts._newest.pop(appointment)
    receipts._known_s.pop(appointment)


async def test_an_altered_row_without_a_receipt_does_not_fit_its_seal_and_is_not_served(tmp_path: Path) -> None:
    async with clinic(tmp_path, request_deadline_ms=1_500) as it, with_standby(it, tmp_path) as standby:
        appointment = await changed_appointment(it)
        await replayed(standby, appointment, 2)
        await forget_receipts(it, appointment)
        async with standby.sql() as connection:
            await connection.execute("SELECT pg_wal_replay_pause()")
        convicted = asyncio.create_task(it.wait_report(lambda report: report.faults, deadline_s=15))
        async with it.node.sql() as connection:
            await connection.execute(BEHIND_ITS_BACK)
        assert (await it.call(f"/fhir/Appointment/{appointment}"))[0] == 503
        (fault,) = (await convicted).faults
        assert (fault.kind, fault.is_proof) == (FaultKind.SEAL_MISMATCH, True)


async def test_the_times_of_a_row_are_sealed_too_and_rows_of_before_that_go_on_fitting(tmp_path: Path) -> None:
    async with clinic(tmp_path, request_deadline_ms=1_500) as it, it.node.sql() as connection:
        slots = await it.proposals(2)
        made = [only((await it.book(slot, f"p{number}"))[1])["id"] for number, slot in enumerate(slots)]
        await connection.execute("SELECT set_config('locum.seal_key', $1, false)", row_key(TOKEN))
        await connection.execute("ALTER TABLE appointment DISABLE TRIGGER appointment_sealed")
        broken = "SELECT bool_or(locum_broken(a)) FROM appointment a"
        assert await connection.fetchval(broken) is False
        await connection.execute("UPDATE appointment SET seal = locum_former_seal(appointment) WHERE id = $1", made[0])
        assert await connection.fetchval(broken) is False
        for later, back in LATER:
            await connection.execute(later)
            assert await connection.fetchval(broken) is True
            await connection.execute(back)
            assert await connection.fetchval(broken) is False
        await connection.execute("UPDATE appointment SET comment = 'forged' WHERE id = $1", made[0])
        assert await connection.fetchval(broken) is True


async def test_an_altered_row_is_not_sealed_over_by_a_change(tmp_path: Path) -> None:
    async with clinic(tmp_path, request_deadline_ms=1_500) as it:
        (slot,) = await it.proposals(1)
        made = only((await it.book(slot, "ada"))[1])
        await forget_receipts(it, str(made["id"]))
        async with it.node.sql() as connection:
            await connection.execute(BEHIND_ITS_BACK)
        assert (await it.call("/fhir/Appointment/$book", by_resource(made, status="cancelled")))[0] == 503
        async with it.node.sql() as connection:
            assert await connection.fetchval("SELECT status FROM appointment WHERE id = $1", made["id"]) == "booked"


async def test_rows_under_the_seal_of_another_key_are_served(tmp_path: Path) -> None:
    """A server that got a new key must not refuse what the old one has sealed."""
    async with clinic(tmp_path, request_deadline_ms=1_500) as it:
        (slot,) = await it.proposals(1)
        made = only((await it.book(slot, "ada"))[1])
        async with it.node.sql() as connection:
            await connection.execute("SET locum.seal_key = 'abcd'")
            await connection.execute("UPDATE appointment SET updated_at = updated_at")
            assert await connection.fetchval("SELECT bool_and(seal IS NOT NULL) FROM appointment")
        assert (await it.call(f"/fhir/Appointment/{made['id']}"))[0] == 200


async def vanish(it: Clinic, standby: Node, appointment: str) -> None:
    """From the primary only: its standby keeps it."""
    await replayed(standby, appointment, 1)
    async with standby.sql() as connection:
        await connection.execute("SELECT pg_wal_replay_pause()")
    async with it.node.sql() as connection:
        await connection.execute("DELETE FROM appointment WHERE id = $1", appointment)


async def test_a_time_that_was_given_away_is_not_given_away_again_because_its_row_has_vanished(tmp_path: Path) -> None:
    """No constraint sees it; the server remembers, holds the request, and the standby is proof against the primary."""
    async with clinic(tmp_path, request_deadline_ms=1_500) as it, with_standby(it, tmp_path) as standby:
        (slot,) = await it.proposals(1)
        made = only((await it.book(slot, "ada"))[1])
        convicted = asyncio.create_task(it.wait_report(lambda report: report.faults, deadline_s=15))
        await vanish(it, standby, str(made["id"]))
        status, body, _ = await it.book(slot, "bob")
        assert status == 503, body
        (fault,) = (await convicted).faults
        assert (fault.kind, fault.is_proof) == (FaultKind.ROW_MISSING, True)
        assert await it.rows() == []


async def test_a_search_that_leaves_out_what_was_acknowledged_is_not_answered(tmp_path: Path) -> None:
    async with clinic(tmp_path, request_deadline_ms=1_500) as it, with_standby(it, tmp_path) as standby:
        (slot,) = await it.proposals(1)
        made = only((await it.book(slot, "ada"))[1])
        await vanish(it, standby, str(made["id"]))
        assert (await it.call("/fhir/Appointment?patient=ada"))[0] == 503
        assert (await it.call("/fhir/Appointment?patient=bob"))[0] == 200


async def test_a_time_whose_row_is_nowhere_is_free_again_once_a_person_was_told(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it, with_standby(it, tmp_path):
        (slot,) = await it.proposals(1)
        made = only((await it.book(slot, "ada"))[1])
        assert it.shared is not None
        it.shared.guard._given_up[str(made["id"])] = 1
        it.shared.receipts.expected.forget(str(made["id"]))
        async with it.node.sql() as connection:
            await connection.execute("DELETE FROM appointment WHERE id = $1", made["id"])
        assert (await it.book(slot, "bob"))[0] in (201, 409), (
            "409 where the check of the receipts has put it back first"
        )
