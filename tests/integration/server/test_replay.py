"""Requests across the end of a primary: held, replayed, answered once; reads that are old say so, or are not given."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from replication.topology import Phase
from tests.integration.server.bodies import only
from tests.integration.server.clinic import Clinic, Json, Node, clinic, standby_of, until

CONF = "port = {port}\nlocum.term = '{term}'\nsynchronous_standby_names = '{names}'\n"


def conf(node: Node, term: int, names: str = "") -> str:
    return CONF.format(port=node.port, term=term, names=names)


async def in_sync_wait(it: Clinic, count: int = 1) -> list[int]:
    """Wait until so many of the server's backends wait for the standby: their pids."""
    query = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%locum_take%'"
    async with it.node.sql() as connection, asyncio.timeout(10):
        while len(found := await connection.fetch(query)) < count:
            await asyncio.sleep(0.01)
        return [row["pid"] for row in found]


async def set_names(it: Clinic, names: str) -> None:
    """Change whom commits wait for, and see it in force."""
    await it.node.reload(conf(it.node, 1, names))
    async with it.node.sql() as connection, asyncio.timeout(10):
        while await connection.fetchval("SHOW synchronous_standby_names") != names:
            await asyncio.sleep(0.01)


async def test_a_killed_primary_fails_no_request_and_doubles_none(tmp_path: Path) -> None:
    async with clinic(tmp_path, practitioners=10) as it:
        slots = await it.proposals(300)
        answers: list[tuple[int, Json, Any]] = []

        async def client(number: int) -> None:
            await asyncio.sleep(number * 0.01)
            answers.append(await it.book(slots[number], f"patient-{number}", Idempotency_Key=f"key-{number}"))

        async with asyncio.TaskGroup() as clients:
            for number in range(len(slots)):
                clients.create_task(client(number))
            await until(lambda: len(answers) >= 30)
            heard = asyncio.create_task(it.wait_report(lambda report: report.connect_error == "refused"))
            killed = time.monotonic()
            await it.node.kill()
            report = await heard
            assert time.monotonic() - killed < 2
            assert report.writes_failing_ms is not None
            await it.node.start(2, new_port=True)
            it.publish(2, it.node)
        assert Counter(status for status, _, _ in answers) == {201: len(slots)}
        promised = [only(body)["id"] for _, body, _ in answers]
        assert len(set(promised)) == len(slots)
        assert {str(row["id"]) for row in await it.rows()} == set(promised)


async def test_a_cancelled_wait_for_the_standby_is_not_an_acknowledgement(tmp_path: Path) -> None:
    """DESIGN 4: "A cancelled wait for synchronous replication is not an acknowledgement"."""
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        await set_names(it, "ghost")
        booking = asyncio.create_task(it.book(slot, "ada"))
        (pid,) = await in_sync_wait(it)
        async with it.node.sql() as connection:
            assert await connection.fetchval("SELECT pg_cancel_backend($1)", pid)
        await until(lambda: "locum_server_unknown_outcomes_total 1.0" in metrics(it))
        # It is committed here and PostgreSQL said so, but the standby does not have it: it is run again, and waits again.
        assert len(await it.rows()) == 1
        await in_sync_wait(it)
        assert not booking.done()
        await set_names(it, "")
        async with it.node.sql() as connection:
            await connection.execute("SELECT 1")
        status, body, _ = await booking
        assert (status, [only(body)["id"]]) == (201, [str(row["id"]) for row in await it.rows()])


async def test_a_switchover_holds_new_writes_and_tells_when_none_is_out(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        first, second = await it.proposals(2)
        await set_names(it, "ghost")
        out = asyncio.create_task(it.book(first, "ada"))
        await in_sync_wait(it)
        it.publish(1, it.node, Phase.SWITCHING_OVER)
        await it.wait_report(lambda report: report.phase == "switching_over" and report.writes_in_flight == 1)
        held = asyncio.create_task(it.book(second, "bob"))
        await it.wait_report(lambda report: report.held_requests == 1)
        drained = asyncio.create_task(it.wait_report(lambda report: report.writes_in_flight == 0))
        await set_names(it, "")
        assert (await out)[0] == 201
        report = await drained
        assert (report.phase, report.held_requests) == ("switching_over", 1)
        assert not held.done()
        it.publish(1, it.node, Phase.HEALTHY)
        assert (await held)[0] == 201


async def test_without_a_primary_reads_come_from_the_standby_and_say_how_old_they_are(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        first, second = await it.proposals(2)
        made = only((await it.book(first, "ada"))[1])
        standby = await standby_of(it.node, tmp_path)
        try:
            await standby.start(1)
            booked = only((await it.book(second, "bob"))[1])
            await until_replayed(standby, booked["id"])
            it.publish(1, it.node, standbys=(standby,))
            assert "X-Locum-Stale" not in (await it.call(f"/fhir/Appointment/{made['id']}"))[2]
            await it.node.kill()
            it.publish(1, None, Phase.NO_PRIMARY, (standby,))
            for path in (f"/fhir/Appointment/{booked['id']}", "/fhir/Appointment?patient=bob", "/fhir/Slot?_count=1"):
                status, _, headers = await it.call(path)
                assert (status, headers["X-Locum-Stale"].isdigit()) == (200, True)
            assert int(headers["X-Locum-Stale"]) < 60
            assert (await it.call("/livez"))[0] == 200
        finally:
            await standby.kill()


async def test_a_stopped_primary_is_replaced_and_what_it_says_later_is_thrown_away(tmp_path: Path) -> None:
    """DESIGN 4: "a query that lay in the socket of a stopped primary was answered 18 ms after SIGCONT"."""
    async with clinic(tmp_path) as it:
        first, second = await it.proposals(2)
        standby = await standby_of(it.node, tmp_path)
        try:
            await standby.start(1)
            await set_names(it, standby.name)
            assert (await it.book(first, "ada"))[0] == 201
            failing = asyncio.create_task(it.wait_report(lambda report: (report.writes_failing_ms or 0) > 200))
            it.node.signal(signal.SIGSTOP)
            pending = asyncio.create_task(it.book(second, "bob"))
            reading = asyncio.create_task(it.call("/fhir/Appointment?patient=ada"))
            assert (await failing).connect_error is None
            async with standby.sql() as connection:
                await connection.execute("SELECT pg_promote(true)")
            await standby.reload(conf(standby, 2))
            it.publish(2, standby)
            assert (await pending)[0] == 201
            status, bundle, _ = await reading
            assert (status, len(bundle["entry"])) == (200, 1)
            it.node.signal(signal.SIGCONT)
            assert (await it.book(second, "eve"))[0] == 409
            async with standby.sql() as connection:
                assert await connection.fetchval("SELECT count(*) FROM appointment") == 2
        finally:
            await standby.kill()


async def test_connections_that_were_kept_to_the_standby_book_as_soon_as_it_is_primary(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        standby = await standby_of(it.node, tmp_path)
        try:
            await standby.start(1)
            it.publish(1, it.node, standbys=(standby,))
            kept = await server_backends(standby, 2)
            await it.node.kill()
            it.publish(2, None, Phase.FAILING_OVER)  # its history is no longer shown as proved: it is being promoted
            booking = asyncio.create_task(it.book(slot, "ada"))
            async with standby.sql() as connection:
                await connection.execute("SELECT pg_promote(true)")
            await standby.reload(conf(standby, 2))
            it.publish(2, standby)
            assert (await booking)[0] == 201
            assert set(kept) <= set(await server_backends(standby, 2))
        finally:
            await standby.kill()


async def server_backends(node: Node, count: int) -> list[int]:
    """Wait until the server has so many sessions there that do nothing: their pids."""
    query = "SELECT pid FROM pg_stat_activity WHERE usename = 'locum_server' AND state = 'idle'"
    async with node.sql() as connection, asyncio.timeout(10):
        while len(found := await connection.fetch(query)) < count:
            await asyncio.sleep(0.01)
        return [row["pid"] for row in found]


async def test_a_primary_that_cannot_commit_answers_no_read(tmp_path: Path) -> None:
    async with clinic(tmp_path, lease_ttl_ms=400, request_deadline_ms=1_500) as it:
        assert (await it.call("/fhir/Practitioner/dr-01"))[0] == 200
        await set_names(it, "ghost")
        await asyncio.sleep(0.5)  # the lease itself runs out
        status, body, headers = await it.call("/fhir/Practitioner/dr-01")
        assert (status, body["resourceType"], int(headers["Retry-After"]) > 0) == (503, "OperationOutcome", True)
        await set_names(it, "")
        assert (await it.call("/fhir/Practitioner/dr-01"))[0] == 200


async def test_a_node_of_another_term_is_not_used(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        it.publish(2, it.node)
        await it.wait_report(lambda report: report.term == 2 and report.connect_error == "not_primary")
        booking = asyncio.create_task(it.book(slot, "ada"))
        await it.wait_report(lambda report: report.held_requests == 1)
        it.publish(1, it.node)  # late: of a lower term
        assert len(await it.rows()) == 0
        await it.node.reload(conf(it.node, 2))
        assert (await booking)[0] == 201


async def test_the_service_goes_on_without_the_controller(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        first, second = await it.proposals(2)
        it.is_away = True
        it.hub.close()
        await until(lambda: it.refused >= 3)  # the stream and the evidence: it keeps trying
        assert (await it.book(first, "ada"))[0] == 201
        it.is_away = False
        it.publish(2, it.node)
        await it.wait_report(lambda report: report.term == 2)
        await it.node.reload(conf(it.node, 2))
        assert (await it.book(second, "bob"))[0] == 201


async def until_replayed(standby: Node, appointment: str) -> None:
    """Wait until a row is to be seen on the standby."""
    async with standby.sql() as connection, asyncio.timeout(10):
        while not await connection.fetchval("SELECT count(*) FROM appointment WHERE id = $1::text::uuid", appointment):
            await asyncio.sleep(0.01)


def metrics(it: Clinic) -> str:
    """What /metrics shows, without the request."""
    assert it.shared is not None
    return it.shared.metrics.render().decode()
