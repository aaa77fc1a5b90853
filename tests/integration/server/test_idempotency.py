"""One key, one appointment: repeated, cut off, in parallel, across the end of a primary."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import msgspec

from tests.integration.server.bodies import book_body, by_resource, only, word
from tests.integration.server.clinic import HOST, Clinic, clinic
from tests.integration.server.test_replay import in_sync_wait, set_names

BOOK = "/fhir/Appointment/$book"


async def test_the_same_key_gets_the_same_answer_and_another_body_is_refused(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        first, second, third = await it.proposals(3, practitioner="Practitioner/dr-01")
        status, answer, headers = await it.book(first, "ada", Idempotency_Key="k1")
        assert status == 201
        # changed afterwards: the first answer stays the first answer
        assert (await it.call(BOOK, by_resource(only(answer), slot=third["slot"], start=third["start"])))[0] == 200
        for spelling in ("k1", '"k1"', " k1 "):
            again = await it.book(first, "ada", Idempotency_Key=spelling)
            assert (again[0], again[1]) == (201, answer)
            assert (again[2]["Location"], again[2]["ETag"]) == (headers["Location"], headers["ETag"])
        status, body, _ = await it.book(second, "ada", Idempotency_Key="k1")
        assert (status, word(body)) == (422, "key-reused")
        assert len(await it.rows()) == 1
        # refused is not kept: the key may be used for another try
        (hindered,) = await it.proposals(1)
        blocker = only((await it.book(hindered, "bob"))[1])
        assert (await it.book(hindered, "eve", Idempotency_Key="k2"))[0] == 409
        assert (await it.call(BOOK, by_resource(blocker, status="cancelled")))[0] == 200
        assert (await it.book(hindered, "eve", Idempotency_Key="k2"))[0] == 201


async def test_a_client_that_hung_up_gets_its_first_answer_also_after_a_failover(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        await hang_up(it, "k1", book_body(slot["id"], "ada"))
        status, first, _ = await it.book(slot, "ada", Idempotency_Key="k1")
        assert status == 201
        await it.node.kill()
        await it.node.start(2, new_port=True)
        it.publish(2, it.node)
        assert (await it.book(slot, "ada", Idempotency_Key="k1"))[:2] == (201, first)
        assert (await it.book(slot, "eve", Idempotency_Key="k1"))[0] == 422
        assert [str(row["id"]) for row in await it.rows()] == [only(first)["id"]]


async def test_many_at_once_with_one_key_are_one(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        answers = await asyncio.gather(*(it.book(slot, "ada", Idempotency_Key="k1") for _ in range(30)))
        assert Counter(status for status, _, _ in answers) == {201: 30}
        assert len({only(body)["id"] for _, body, _ in answers}) == 1


async def test_a_repeat_waits_for_the_first_until_its_deadline(tmp_path: Path) -> None:
    async with clinic(tmp_path, request_deadline_ms=1_200) as it:
        (slot,) = await it.proposals(1)
        await set_names(it, "ghost")
        first = asyncio.create_task(it.book(slot, "ada", Idempotency_Key="k1"))
        await in_sync_wait(it)
        status, body, _ = await it.book(slot, "eve", Idempotency_Key="k1")
        assert (status, word(body)) == (422, "key-reused")
        second = asyncio.create_task(it.book(slot, "ada", Idempotency_Key="k1"))
        for answer in (await first, await second):
            assert (answer[0], int(answer[2]["Retry-After"]) > 0) == (503, True), answer
        await set_names(it, "")
        assert (await it.book(slot, "ada", Idempotency_Key="k1"))[0] == 201
        assert len(await it.rows()) == 1


async def hang_up(it: Clinic, key: str, body: object) -> None:
    """Send a whole request and close the connection without waiting for a byte."""
    content = msgspec.json.encode(body)
    head = (
        f"POST {BOOK} HTTP/1.1\r\nHost: {HOST}:{it.port}\r\nIdempotency-Key: {key}\r\n"
        f"Content-Type: application/fhir+json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    _reader, writer = await asyncio.open_connection(HOST, it.port)
    writer.write(head.encode() + content)
    await writer.drain()
    writer.close()
