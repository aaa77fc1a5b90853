"""An appointment's way through the day, times that are offered instead of a taken one, and an answer that was lost."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from tests.integration.server.bodies import by_reference, by_resource, only, word
from tests.integration.server.clinic import Json, clinic

BOOK = "/fhir/Appointment/$book"


async def test_staff_mark_who_came_and_who_was_seen_in_order(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        slot, other = await it.proposals(2)
        made = only((await it.book(slot, "ada"))[1])
        for status in ("arrived", "checked-in", "fulfilled"):
            code, body, _ = await it.call(BOOK, by_resource(made, status=status))
            assert (code, only(body)["status"]) == (200, status), body
            made = only(body)
        assert made["meta"]["versionId"] == "4"
        assert (await it.call(BOOK, by_resource(made, status="fulfilled")))[0] == 200, "to say it again is no error"
        for status in ("cancelled", "arrived", "noshow"):
            code, body, _ = await it.call(BOOK, by_resource(made, status=status))
            assert (code, word(body)) == (422, "status-forbids"), status
        assert (await it.book(slot, "bob"))[0] == 409, "who was seen still fills the time"
        absent = only((await it.book(other, "eve"))[1])
        code, body, _ = await it.call(BOOK, by_resource(absent, status="noshow"))
        assert (code, word(body)) == (422, "appointment-ahead")
        async with it.node.sql() as connection:
            await connection.execute(
                "UPDATE appointment SET during = tstzrange(now() - interval '1 h', now()) WHERE id = $1", absent["id"]
            )
        code, body, _ = await it.call(BOOK, by_resource(absent, status="noshow"))
        assert (code, only(body)["status"]) == (200, "noshow")


async def test_a_taken_time_comes_with_up_to_three_free_ones_of_the_same_practitioner(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        one, two, three, four, five, *_ = await it.proposals(6, practitioner="Practitioner/dr-01")
        for slot, who in ((one, "ada"), (three, "bob")):
            assert (await it.book(slot, who))[0] == 201
        status, outcome, _ = await it.book(one, "eve")
        assert (status, word(outcome)) == (409, "slot-taken")
        error, *offered = outcome["issue"]
        assert error["severity"] == "error"
        assert [issue["severity"] for issue in offered] == ["information"] * 3
        references = [issue["extension"][0]["valueReference"]["reference"] for issue in offered]
        assert references == [f"Appointment/{slot['id']}" for slot in (two, four, five)]
        assert one["participant"][0]["actor"]["display"] in offered[0]["details"]["text"]
        assert (await it.book({"id": references[0].removeprefix("Appointment/")}, "eve"))[0] == 201


async def test_a_client_that_lost_its_answer_asks_for_it_by_its_key(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        status, made, _ = await it.book(slot, "ada", Idempotency_Key="lost/and found")
        assert status == 201
        status, found, _ = await it.call("/idempotency/lost/and%20found")
        assert (status, found["status"], found["body"]) == (200, 201, made)
        assert datetime.fromisoformat(found["expires_at"]) > datetime.now(UTC)
        status, outcome, _ = await it.call("/idempotency/never%20used")
        assert (status, word(outcome)) == (404, "not-found")
        assert (await it.call(BOOK, by_resource(only(made), status="cancelled"), Idempotency_Key="k2"))[0] == 200
        assert (await it.call("/idempotency/lost/and%20found"))[1]["body"] == made, "as it was answered then"


async def test_a_key_is_forgotten_a_day_after_its_last_use(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        one, two = await it.proposals(2, practitioner="Practitioner/dr-01")
        await it.book(one, "ada", Idempotency_Key="old")
        await it.book(two, "bob", Idempotency_Key="young")
        async with it.node.sql() as connection:
            await connection.execute(
                "UPDATE idempotency SET touched_at = now() - interval '25 hours' WHERE key = 'old'"
            )
            assert await connection.fetchval("SELECT locum_forget_keys('24 hours')") == 1
        assert (await it.call("/idempotency/old"))[0] == 404
        assert (await it.call("/idempotency/young"))[0] == 200


async def test_a_refusal_in_a_crowd_still_offers_times(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        answers = await asyncio.gather(*(it.book(slot, f"p{number}") for number in range(8)))
        refused: list[Json] = [body for status, body, _ in answers if status == 409]
        assert len(refused) == 7
        assert all(len(body["issue"]) == 4 for body in refused)
        assert (await it.call("/fhir/Appointment/$hold", by_reference(slot["id"])))[0] == 409
