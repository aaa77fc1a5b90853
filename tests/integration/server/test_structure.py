"""After a failover amcheck looks at the booking tables: an index that misses a row is made anew before the incident may close, or told."""

from __future__ import annotations

from pathlib import Path

from failover.drill.faults.damage import items_of, live_leaves, page_of, resealed
from replication.model import ReceiptCheck
from replication.page_size import PAGE_BYTES
from tests.integration.server.bodies import by_resource, only
from tests.integration.server.clinic import Clinic, clinic

# An index that is not ready gets no entries: what is booked meanwhile is missing in it, as after a lost write of an index page.
_READY = "UPDATE pg_index SET indisready = $1 WHERE indexrelid = 'appointment_patient'::regclass"


async def restarted(it: Clinic, term: int) -> ReceiptCheck:
    """What the check of a new term says."""
    await it.node.kill()
    await it.node.start(term)
    it.publish(term, it.node)
    report = await it.wait_report(lambda report: report.receipts is not None and report.receipts.term == term, 30)
    assert report.receipts is not None
    assert (report.receipts.lost, report.receipts.double_booked) == (0, 0)
    return report.receipts


async def with_an_index_that_misses_a_row(it: Clinic) -> None:
    one, two = await it.proposals(2)
    assert (await it.book(one, "ada"))[0] == 201
    first = await restarted(it, 2)
    assert (first.structure, first.reindexed) == ((), ())
    async with it.node.sql() as connection:
        await connection.execute(_READY, False)
    await restarted(it, 3)  # so that every session knows
    assert (await it.book(two, "bob"))[0] == 201
    async with it.node.sql() as connection:
        await connection.execute(_READY, True)


async def test_an_index_that_misses_a_row_is_made_anew_in_the_next_term(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        await with_an_index_that_misses_a_row(it)
        found = await restarted(it, 4)
        assert (found.structure, found.reindexed) == ((), ("appointment",))
        async with it.node.sql() as connection:
            await connection.execute("SELECT bt_index_check('appointment_patient', true)")
        assert (await restarted(it, 5)).reindexed == ()


async def test_an_index_that_cannot_be_made_anew_is_named_until_it_is(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        await with_an_index_that_misses_a_row(it)
        async with it.node.sql() as connection:
            await connection.execute("REVOKE EXECUTE ON FUNCTION locum_reindex_damaged FROM locum_server")
        found = await restarted(it, 4)
        assert found.structure is not None and found.reindexed == ()
        assert any("appointment_patient" in sentence for sentence in found.structure), found
        async with it.node.sql() as connection:
            await connection.execute("REINDEX INDEX appointment_patient")
        await it.wait_report(lambda report: report.receipts is not None and report.receipts.structure == (), 30)


# The page forgets the newest version of a row; another row takes its place, so that the primary key leads to it from either id.
_TAKES_THE_PLACE = """
INSERT INTO appointment (id, version, status, slot_id, practitioner_id, location_id, patient_id, during, created_at, updated_at)
SELECT gen_random_uuid(), 1, 'cancelled', slot_id, practitioner_id, location_id, patient_id, during, created_at, updated_at
FROM appointment
RETURNING ctid::text
"""


async def test_a_row_that_the_index_finds_twice_is_restored_all_the_same(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        made = only((await it.book(slot, "ada"))[1])
        before, path = await checkpointed(it)
        assert (await it.call("/fhir/Appointment/$book", by_resource(made, status="cancelled")))[0] == 200
        async with it.node.sql() as connection:
            place = await connection.fetchval("SELECT ctid::text FROM appointment")
        await checkpointed(it)
        await it.node.kill()
        with path.open("r+b") as file:
            file.write(before)
        await it.node.start(2)
        async with it.node.sql() as connection:
            assert await connection.fetchval(_TAKES_THE_PLACE) == place
        it.publish(2, it.node)
        report = await it.wait_report(lambda report: report.receipts is not None and report.receipts.term == 2, 30)
        assert report.receipts is not None
        assert (report.receipts.restored, report.receipts.lost, report.receipts.structure) == (1, 0, ())
        assert report.receipts.reindexed == ("appointment",)
        status, found, _ = await it.call(f"/fhir/Appointment/{made['id']}")
        assert (status, found["status"], found["meta"]["versionId"]) == (200, "cancelled", "2")


async def test_a_version_that_came_back_beside_its_newer_one_goes_again(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        made = [only((await it.book(slot, f"patient-{n}"))[1]) for n, slot in enumerate(await it.proposals(60))]
        before, path = await checkpointed(it)
        first = made[0]
        assert (await it.call("/fhir/Appointment/$book", by_resource(first, status="cancelled")))[0] == 200
        async with it.node.sql() as connection:
            moved = await connection.fetchval("SELECT ctid::text FROM appointment WHERE id = $1", first["id"])
        assert not moved.startswith("(0,"), "the first page is full, so that the newer version lies on another"
        await checkpointed(it)
        await it.node.kill()
        with path.open("r+b") as file:
            file.write(before)
        await it.node.start(2)
        it.publish(2, it.node)
        report = await it.wait_report(lambda report: report.receipts is not None and report.receipts.term == 2, 30)
        assert report.receipts is not None
        assert (report.receipts.lost, report.receipts.double_booked, report.receipts.structure) == (0, 0, ())
        assert report.receipts.reindexed == ("appointment",)
        async with it.node.sql() as connection:
            rows = await connection.fetch(
                "SELECT id::text, version, ctid::text FROM appointment"
            )  # from the table itself
            assert [(row["version"], row["ctid"]) for row in rows if row["id"] == first["id"]] == [(2, moved)]
            assert len(rows) == len(made)
        assert (await it.call(f"/fhir/Appointment/{first['id']}"))[1]["status"] == "cancelled"


async def test_rows_behind_a_wrong_entry_of_their_index_count_as_missing(tmp_path: Path) -> None:
    """A plan that reads the whole index would meet them; a search for one of them turns the wrong way."""
    async with clinic(tmp_path) as it:
        made = [only((await it.book(slot, f"patient-{n}"))[1]) for n, slot in enumerate(await it.proposals(60))]
        async with it.node.sql() as connection:
            await connection.execute("ANALYZE appointment")
            await connection.execute("CHECKPOINT")
            path = it.node.data / await connection.fetchval("SELECT pg_relation_filepath('appointment_pkey')")
        await it.node.kill()
        data = path.read_bytes()
        (leaf,) = live_leaves(data)
        page = bytearray(page_of(data, leaf))
        entries = items_of(bytes(page))
        key = entries[len(entries) // 2].offset + 8  # src/include/access/itup.h, IndexTupleData
        page[key : key + 16] = b"\xff" * 16
        with path.open("r+b") as file:
            file.seek(leaf * PAGE_BYTES)
            file.write(resealed(bytes(page), leaf))
        await it.node.start(2)
        it.publish(2, it.node)
        report = await it.wait_report(lambda report: report.receipts is not None and report.receipts.term == 2, 30)
        assert report.receipts is not None
        assert report.receipts.restored >= len(made) // 2 - 1
        assert (report.receipts.lost, report.receipts.structure, report.receipts.sealed) == (0, (), len(made))
        async with it.node.sql() as connection:
            assert await connection.fetchval("SELECT count(*) FROM appointment") == len(made)


async def checkpointed(it: Clinic) -> tuple[bytes, Path]:
    """The first page of the appointments as it lies on the disk after a checkpoint, and its file."""
    async with it.node.sql() as connection:
        await connection.execute("CHECKPOINT")
        path = it.node.data / await connection.fetchval("SELECT pg_relation_filepath('appointment')")
    return path.read_bytes()[:8192], path
