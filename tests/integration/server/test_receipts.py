"""Receipts: on their disk before the answer, and compared by content with the rows of the primary."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from replication.model import ReceiptCheck
from replication.wire.http import get_bytes, post_json
from server.pool import Pool
from server.receipt_check import ReceiptChecker
from server.receipt_file import Stored, parse
from server.seal import Seal
from tests.integration.server.bodies import by_resource, only
from tests.integration.server.clinic import TOKEN, Clinic, clinic, until

_AWAY_S = 0.5
"""How long a primary is dead before somebody starts it."""


def on_disk(it: Clinic) -> list[Stored]:
    """Every receipt that is in a file now."""
    files = sorted((it.root / "receipts").glob("*.log"))
    return [stored for path in files for stored in parse(path.read_bytes())[0]]


def versions(it: Clinic) -> list[tuple[str, int]]:
    return [(stored.receipt.id, stored.receipt.version) for stored in on_disk(it)]


async def check(it: Clinic, term: int = 1, token: str = TOKEN) -> tuple[int, Any]:
    status, body = await post_json(
        it.session, f"{it.url}/internal/receipts/check", {"expected_term": term}, token=token, deadline_ms=20_000
    )
    return status, msgspec.json.decode(body)


async def test_a_receipt_is_on_its_disk_before_the_answer(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        for number, proposal in enumerate(await it.proposals(30)):
            status, bundle, _ = await it.book(proposal, f"patient-{number}")
            found = versions(it)
            assert status == 201
            assert (only(bundle)["id"], 1) in found


async def test_the_receipt_holds_the_row_encrypted_and_where_the_wal_was(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (proposal,) = await it.proposals(1)
        _, bundle, _ = await it.book(proposal, "patient-whose-name-is-secret")
        (stored,) = on_disk(it)
        assert stored.receipt.timeline == 1
        async with it.node.sql() as connection:
            digest, now = await connection.fetchrow(
                "SELECT locum_digest(a), (pg_current_wal_flush_lsn() - '0/0')::bigint FROM appointment a"
            )
        assert stored.receipt.digest == digest
        assert 0 < stored.receipt.insert_lsn <= now
        assert b"patient-whose-name-is-secret" not in next((it.root / "receipts").glob("*.log")).read_bytes()
        row = Seal(TOKEN).open(stored.row, stored.receipt.id)
        assert b"patient-whose-name-is-secret" in row
        assert only(bundle)["id"].encode() in row


async def test_an_answer_given_again_and_a_cancel_have_their_receipts(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (proposal,) = await it.proposals(1)
        _, bundle, _ = await it.book(proposal, "ada", Idempotency_Key="once")
        made = only(bundle)
        _, again, _ = await it.book(proposal, "ada", Idempotency_Key="once")
        assert only(again)["id"] == made["id"]
        await it.call("/fhir/Appointment/$book", by_resource(made, status="cancelled"))
        assert versions(it) == [(made["id"], 1), (made["id"], 1), (made["id"], 2)]


async def test_all_that_was_acknowledged_is_found(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        proposals = await it.proposals(20)
        await asyncio.gather(*(it.book(slot, f"patient-{n}") for n, slot in enumerate(proposals)))
        status, found = await check(it)
        assert status == 200
        count = len(await it.rows())
        assert (found["acknowledged"], found["present"], found["lost"], found["double_booked"]) == (count, count, 0, 0)
        assert found["sealed"] == count


async def test_rows_that_vanished_went_back_or_were_altered_are_restored_as_they_were_acknowledged(
    tmp_path: Path,
) -> None:
    async with clinic(tmp_path) as it:
        made = [only((await it.book(slot, f"p{n}"))[1]) for n, slot in enumerate(await it.proposals(5))]
        await it.call("/fhir/Appointment/$book", by_resource(made[1], status="cancelled"))
        async with it.node.sql() as connection:
            await connection.execute("DELETE FROM appointment WHERE id = $1", made[0]["id"])
            await connection.execute(
                "UPDATE appointment SET version = 1, status = 'booked' WHERE id = $1", made[1]["id"]
            )
            await connection.execute("UPDATE appointment SET comment = 'forged' WHERE id = $1", made[2]["id"])
            await connection.execute(
                "ALTER TABLE appointment DISABLE TRIGGER appointment_sealed;"
                "UPDATE appointment SET created_at = '2001-01-01' WHERE patient_id = 'p4';"
                "ALTER TABLE appointment ENABLE TRIGGER appointment_sealed"
            )
            why = await connection.fetch(
                "SELECT why FROM locum_missing($1::jsonb)", f'[{{"id": "{made[0]["id"]}", "version": 1, "digest": ""}}]'
            )
        assert [row["why"] for row in why] == ["missing"]
        status, found = await check(it)
        assert status == 200
        counts = (found["acknowledged"], found["present"], found["restored"], found["lost"])
        assert counts in ((5, 1, 4, 0), (5, 5, 0, 0)), "by this check, or by the one that the patrol had begun"
        for number, status in ((0, "booked"), (1, "cancelled"), (2, "booked"), (3, "booked")):
            answered, appointment, _ = await it.call(f"/fhir/Appointment/{made[number]['id']}")
            assert (answered, appointment["status"], appointment.get("comment")) == (200, status, None)
        assert (await it.call(f"/fhir/Appointment/{made[4]['id']}"))[1]["created"] == made[4]["created"]


async def test_a_row_whose_time_was_given_to_another_meanwhile_is_left_to_a_person(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        made = only((await it.book(slot, "ada"))[1])
        async with it.node.sql() as connection:
            await connection.execute(
                "WITH gone AS (DELETE FROM appointment RETURNING *) INSERT INTO appointment SELECT gen_random_uuid(), "
                "version, status, slot_id, practitioner_id, location_id, patient_id, during, comment, hold_expires_at, "
                "created_at, updated_at FROM gone"
            )
        found = (await check(it))[1]
        assert (found["acknowledged"], found["restored"], found["lost"]) == (1, 0, 1)
        assert found["missing"] == [made["id"]]
        report = await it.wait_report(lambda report: report.receipts is not None and report.receipts.lost == 1)
        assert isinstance(report.receipts, ReceiptCheck)
        assert report.receipts.term == 1


async def test_a_double_booking_is_seen_without_the_index_that_forbids_it(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        await it.book(slot, "ada")
        async with it.node.sql() as connection:
            await connection.execute("ALTER TABLE appointment DROP CONSTRAINT appointment_practitioner_free")
            await connection.execute("ALTER TABLE appointment DROP CONSTRAINT appointment_location_free")
            await connection.execute(
                "INSERT INTO patient (id) VALUES ('bob'); INSERT INTO appointment SELECT gen_random_uuid(), version, "
                "status, slot_id, practitioner_id, location_id, 'bob', during, comment, hold_expires_at, created_at, "
                "updated_at FROM appointment"
            )
        assert (await check(it))[1]["double_booked"] == 1


async def test_a_new_term_is_checked_without_being_asked(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        await it.book(slot, "ada")
        await it.node.kill()
        await it.node.start(2)
        it.publish(2, it.node)
        report = await it.wait_report(lambda report: report.receipts is not None and report.receipts.term == 2)
        assert report.receipts is not None
        assert (report.receipts.acknowledged, report.receipts.present) == (1, 1)


async def test_a_comparison_that_waited_for_the_primary_to_start_again_is_one_of_that_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller takes none from before it started the primary, and an incident would wait for another for ever."""
    settled, compare, begun = ReceiptChecker._settled, ReceiptChecker._check, asyncio.Event()

    async def dies_meanwhile(self: ReceiptChecker, pool: Pool) -> None:
        await settled(self, pool)
        monkeypatch.undo()
        monkeypatch.setattr(ReceiptChecker, "_check", watched)
        await it.node.kill()
        await until(lambda: self._database.primary is None)

    async def watched(self: ReceiptChecker, pool: Pool) -> ReceiptCheck:
        begun.set()
        return await compare(self, pool)

    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        await it.book(slot, "ada")
        await check(it)
        monkeypatch.setattr(ReceiptChecker, "_settled", dies_meanwhile)
        waiting = asyncio.create_task(check(it))
        async with asyncio.timeout(10):
            await begun.wait()
        await asyncio.sleep(_AWAY_S)
        started_s = time.monotonic()
        await it.node.start(1)
        status, found = await waiting
        assert (status, found["acknowledged"], found["present"]) == (200, 1, 1)
        assert found["began_ms_ago"] < (time.monotonic() - started_s) * 1000


async def test_bookings_go_on_when_the_disk_of_the_receipts_fails_and_nothing_is_forgotten(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        first, second = await it.proposals(2)
        shutil.rmtree(it.root / "receipts")
        (it.root / "receipts").touch()  # no file can be made there, for root either
        assert (await it.book(first, "ada"))[0] == 201
        report = await it.wait_report(lambda report: report.receipts_problem is not None)
        assert report.receipts_problem
        checked = (await check(it))[1]
        assert (checked["acknowledged"], checked["present"]) == (1, 1), "it is compared although it is only in memory"
        (it.root / "receipts").unlink()
        (it.root / "receipts").mkdir(mode=0o700)
        await it.wait_report(lambda report: report.receipts_problem is None)
        assert (await it.book(second, "bob"))[0] == 201
        await until(lambda: len(on_disk(it)) == 2)


async def test_receipts_need_the_token_and_the_right_term(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        assert (await get_bytes(it.session, f"{it.url}/internal/receipts", deadline_ms=5_000))[0] == 401
        assert (await check(it, token="wrong"))[0] == 401
        assert (await check(it, term=7))[0] == 409
