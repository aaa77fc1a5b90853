"""Bookings that share a transaction: each with its own result, by the same rules as one alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from tests.integration.server.bodies import by_reference, by_resource, only, patient, word
from tests.integration.server.clinic import clinic

BOOK = "/fhir/Appointment/$book"


async def test_many_at_once_each_get_their_own_answer(tmp_path: Path) -> None:
    """Free times, one time that many want, one patient who wants two at a time, a time that is not there, a key that comes again."""
    async with clinic(tmp_path) as it:
        first, *free = await it.proposals(30)
        taken = free.pop()
        again = free.pop()
        assert (await it.book(taken, "zoe"))[0] == 201
        status, known, _ = await it.book(again, "yves", Idempotency_Key="known")
        assert status == 201
        same_start = [one for one in free if one["start"] == free[0]["start"]][:2]
        free = [one for one in free if one not in same_start]
        answers = await asyncio.gather(
            *(it.book(slot, f"p{number}") for number, slot in enumerate(free)),
            *(it.book(first, f"rival{number}") for number in range(5)),
            *(it.book(slot, "twice") for slot in same_start),
            it.book(taken, "late"),
            it.call(BOOK, by_reference("prop-00000000-0000-4000-8000-000000000000", patient("lost"))),
            it.book(again, "yves", Idempotency_Key="known"),
            it.book(again, "other", Idempotency_Key="known"),
        )
        told = [status if status < 300 else word(body) for status, body, _ in answers]
        assert told[: len(free)] == [201] * len(free)
        rivals = told[len(free) : len(free) + 5]
        assert Counter(rivals) == {201: 1, "slot-taken": 4}
        twice = told[len(free) + 5 : len(free) + 5 + len(same_start)]
        assert Counter(twice) == ({201: 1, "patient-overlap": 1} if len(same_start) == 2 else {201: 1})
        assert told[-4:] == ["slot-taken", "slot-unknown", 201, "key-reused"]
        assert only(answers[-2][1]) == only(known), "as it was answered first"
        rows = await it.rows()
        assert len(rows) == len(free) + 1 + 1 + 2, "one of each that was wanted"
        assert all(row["seal"] is not None for row in rows)
        status, found, _ = await it.call(f"/fhir/Appointment/{only(answers[0][1])['id']}")
        assert (status, found) == (200, only(answers[0][1])), "a read gives what the answer gave"


async def test_holds_and_bookings_go_together_and_a_hold_that_ran_out_is_in_nobodys_way(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        one, two = await it.proposals(2, practitioner="Practitioner/dr-01")
        status, held, _ = await it.call("/fhir/Appointment/$hold", by_reference(one["id"]))
        assert (status, only(held)["status"]) == (201, "pending")
        assert (await it.book(one, "ada"))[0] == 409
        async with it.node.sql() as connection:
            await connection.execute("UPDATE appointment SET hold_expires_at = now() - interval '1 s'")
        answers = await asyncio.gather(it.book(one, "ada"), it.book(two, "bob"))
        assert [status for status, _, _ in answers] == [201, 201]
        assert (await it.call(BOOK, by_resource(only(answers[0][1]), status="cancelled")))[0] == 200


async def test_a_patients_name_is_kept_from_the_first_booking_and_shown(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        named = {"resourceType": "Patient", "id": "ada", "name": [{"given": ["Ada"], "family": "L"}]}
        body = by_reference(slot["id"], {"name": "patient-resource", "resource": named})
        made = only((await it.call(BOOK, body))[1])
        assert {"reference": "Patient/ada", "display": "Ada L"} in [who["actor"] for who in made["participant"]]
