"""More than the database can take: who does not fit is told so at once, the others are served, and then all is as before."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.integration.server.bodies import word
from tests.integration.server.clinic import Clinic, Json, clinic

SLOWLY = """
CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.005); RETURN NEW; END $$;
CREATE TRIGGER slowly BEFORE INSERT ON appointment FOR EACH ROW EXECUTE FUNCTION slowly();
"""
CAPACITY = 200
CLIENTS = 900
SECONDS = 6.0


async def client(
    it: Clinic, slots: list[Json], number: int, until_s: float, told: list[tuple[int, str, float]]
) -> None:
    for turn, slot in enumerate(slots):
        began_s = time.monotonic()
        if began_s > until_s:
            return
        status, body, headers = await it.book(slot, f"p{number}-{turn}")
        told.append((status, word(body) if status >= 400 else "", time.monotonic() - began_s))
        if status == 503:
            assert int(headers["Retry-After"]) >= 1
            await asyncio.sleep(0.5)


async def test_what_does_not_fit_is_refused_at_once_and_what_fits_is_booked(tmp_path: Path) -> None:
    async with clinic(tmp_path, practitioners=80) as it:
        slots = await it.proposals(5_000)
        async with it.node.sql() as connection:
            await connection.execute(SLOWLY)
        told: list[tuple[int, str, float]] = []
        until_s = time.monotonic() + SECONDS
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(client(it, slots[number::CLIENTS], number, until_s, told))
        booked = [took_s for status, _, took_s in told if status == 201]
        refused = sorted(took_s for status, why, took_s in told if (status, why) == (503, "throttled"))
        assert {status for status, _, _ in told} <= {201, 409, 503}
        assert len(booked) > 0.5 * CAPACITY * SECONDS, "the database was kept busy"
        assert max(booked) < 8, "nobody waited for long and was then served"
        assert len(refused) > 100
        assert refused[len(refused) // 2] < 1.0, "a refusal is no long wait"
        began_s = time.monotonic()
        assert (await it.book(slots[-1], "afterwards"))[0] in (201, 409)
        assert time.monotonic() - began_s < 2


async def test_a_caller_who_asks_too_much_is_told_when_to_come_back(tmp_path: Path) -> None:
    async with clinic(tmp_path, rate_per_s=5.0, rate_burst=40) as it:
        answers = [await it.call("/fhir/Practitioner") for _ in range(60)]
        statuses = [status for status, _, _ in answers]
        assert 30 < statuses.count(200) < 60
        _, outcome, headers = next(answer for answer in answers if answer[0] == 429)
        assert (word(outcome), headers["Retry-After"]) == ("throttled", "1")
        assert headers["RateLimit"] == '"default";r=0;t=1'
        assert headers["RateLimit-Policy"] == '"default";q=40;w=8'
        assert (await it.call("/livez"))[0] == 200
