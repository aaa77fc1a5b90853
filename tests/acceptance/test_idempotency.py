"""One request, one appointment: a client that was cut off and repeats, and many clients for one slot."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from tests.acceptance import fhir
from tests.acceptance.cluster import Cluster, running


async def test_a_cut_off_client_gets_the_first_answer_across_a_failover(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        first, second, *_ = await fhir.endless(cluster.session, cluster.ready.server)
        await send_and_hang_up(cluster, "before-the-failover", fhir.book_body(first.id, first.patient))
        status, answer = await book(cluster, "before-the-failover", fhir.book_body(first.id, first.patient))
        assert status == 201
        promised = fhir.booked(answer)["id"]

        primary = (await cluster.view())["primary"]
        await send_and_hang_up(cluster, "into-the-failover", fhir.book_body(second.id, second.patient))
        cluster.kill_postgres(primary)
        repeats = [book(cluster, "into-the-failover", fhir.book_body(second.id, second.patient)) for _ in range(3)]
        answers = await asyncio.gather(*repeats)
        assert {status for status, _answer in answers} == {201}
        assert len({fhir.booked(answer)["id"] for _status, answer in answers}) == 1

        now = await cluster.wait_until(lambda view: view["primary"] not in (None, primary))
        status, answer = await book(cluster, "before-the-failover", fhir.book_body(first.id, first.patient))
        assert (status, fhir.booked(answer)["id"]) == (201, promised)
        status, answer = await book(cluster, "before-the-failover", fhir.book_body(second.id, second.patient))
        assert status == 422
        assert answer["resourceType"] == "OperationOutcome"
        async with cluster.sql(now["primary"]) as connection:
            assert await connection.fetchval("SELECT count(*) FROM appointment WHERE status = 'booked'") == 2


async def test_two_hundred_clients_for_one_slot_give_one_appointment(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        slot = next(await fhir.endless(cluster.session, cluster.ready.server))
        requests = [book(cluster, f"client-{n}", fhir.book_body(slot.id, f"patient-{n}")) for n in range(200)]
        answers = await asyncio.gather(*requests)
        assert Counter(status for status, _answer in answers) == {201: 1, 409: 199}
        refused = [answer for status, answer in answers if status == 409]
        assert {answer["resourceType"] for answer in refused} == {"OperationOutcome"}
        assert {answer["issue"][0]["details"]["coding"][0]["code"] for answer in refused} == {"slot-taken"}
        async with cluster.sql((await cluster.view())["primary"]) as connection:
            assert await connection.fetchval("SELECT count(*) FROM appointment WHERE status = 'booked'") == 1


async def book(cluster: Cluster, key: str, body: fhir.Json) -> tuple[int, dict[str, Any]]:
    """$book with a key: status and answer."""
    headers = {"Idempotency-Key": key, "Content-Type": "application/fhir+json"}
    content = msgspec.json.encode(body)  # the same bytes as the cut-off request: a repeat is a repeat of the body too
    async with cluster.session.post(fhir.book_url(cluster.ready.server), data=content, headers=headers) as answer:
        return answer.status, msgspec.json.decode(await answer.read(), type=dict[str, Any])


async def send_and_hang_up(cluster: Cluster, key: str, body: fhir.Json) -> None:
    """Send a whole $book and close the connection without waiting for a byte of the answer."""
    content = msgspec.json.encode(body)
    head = (
        f"POST /fhir/Appointment/$book HTTP/1.1\r\nHost: 127.0.0.1\r\nIdempotency-Key: {key}\r\n"
        f"Content-Type: application/fhir+json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    _reader, writer = await asyncio.open_connection("127.0.0.1", cluster.ports.server)
    writer.write(head.encode() + content)
    await writer.drain()
    writer.close()
