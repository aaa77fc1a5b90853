"""A primary that lost the end of its WAL lost bookings, changes and their idempotency keys together; they come back together."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.integration.server.bodies import by_resource, only, word
from tests.integration.server.clinic import Clinic, clinic

_BOOK = "/fhir/Appointment/$book"


async def lose(it: Clinic, sql: str, *keys: str) -> None:
    """What a primary that was promoted from before these commits does not have."""
    async with it.node.sql() as connection, connection.transaction():
        await connection.execute(sql)
        gone = await connection.fetch(
            "DELETE FROM idempotency WHERE key LIKE ANY ($1) RETURNING key", [f"%{key}" for key in keys]
        )
        assert len(gone) == len(keys)


async def test_requests_that_are_sent_again_while_their_booking_is_lost_are_answered_as_before(tmp_path: Path) -> None:
    """The slot of the first is free by then, as far as anybody can see: the booking had been moved to another."""
    async with clinic(tmp_path) as it:
        first, second = await it.proposals(2, practitioner="Practitioner/dr-01")
        booked = await it.book(first, "ada", Idempotency_Key="to-book")
        made = only(booked[1])
        move = by_resource(made, start=second["start"], end=second["end"], slot=second["slot"])
        moved = await it.call(_BOOK, move, Idempotency_Key="to-move")
        assert (booked[0], moved[0]) == (201, 200), moved

        assert it.shared is not None
        guard, expected = it.shared.guard, it.shared.receipts.expected
        check, remembered = guard._doubted, []

        async def check_again() -> None:
            remembered.append(made["id"] in expected._known)
            await check()

        guard._doubted = check_again
        await lose(it, "DELETE FROM appointment", "to-book", "to-move")
        again, moved_again, told, other = await asyncio.gather(
            it.book(first, "ada", Idempotency_Key="to-book"),
            it.call(_BOOK, move, Idempotency_Key="to-move"),
            it.call("/idempotency/to-book"),
            it.book(second, "bob"),
        )
        assert again[:2] == booked[:2]
        assert moved_again[:2] == moved[:2]
        assert (told[0], told[1]["status"], only(told[1]["body"])["id"]) == (200, 201, made["id"])
        assert (other[0], word(other[1])) == (409, "slot-taken")
        (row,) = await it.rows()
        assert (str(row["id"]), row["version"]) == (made["id"], 2)
        assert all(remembered), "whoever waits for it would have come in before it was put back"


async def test_what_was_lost_is_not_changed_before_it_was_put_back(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        made = only((await it.book(slot, "ada"))[1])
        cancelled = await it.call(_BOOK, by_resource(made, status="cancelled"), Idempotency_Key="to-cancel")
        assert cancelled[0] == 200
        await lose(it, "UPDATE appointment SET version = 1, status = 'booked'", "to-cancel")
        late = await it.call(_BOOK, by_resource(made, comment="changed"))
        assert (late[0], word(late[1])) == (409, "stale-version")
        again = await it.call(_BOOK, by_resource(made, status="cancelled"), Idempotency_Key="to-cancel")
        assert again[:2] == cancelled[:2]
        assert await it.rows() == []
