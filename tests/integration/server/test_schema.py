"""The schema on a real PostgreSQL: it may be applied twice, and forbids what must never happen."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from replication.installation import find_installation
from tests.integration.wire.test_wire import free_port

SCHEMA = Path(__file__).parents[3] / "server" / "schema.sql"
SITE, ROOM, OTHER_ROOM, DOCTOR, OTHER_DOCTOR = (uuid.UUID(int=number) for number in range(1, 6))
BOOK = """
INSERT INTO appointment (id, status, practitioner_id, room_id, patient_id, starts_at, ends_at, expires_at)
VALUES ($1, $2, $3, $4, $5, '2030-01-01T09:00Z'::timestamptz + $6 * interval '1 minute',
        '2030-01-01T09:15Z'::timestamptz + $6 * interval '1 minute',
        CASE WHEN $2 = 'pending' THEN '2030-01-01T08:00Z'::timestamptz END)
"""


@pytest.fixture(scope="module")
def socket_directory() -> Iterator[Path]:
    """A bare PostgreSQL that trusts its own socket; ended by pid."""
    installation = find_installation(None)
    with tempfile.TemporaryDirectory(prefix="locum-") as place:
        data = Path(place) / "data"
        initdb = installation.command("initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "-N")
        subprocess.run(initdb, check=True, capture_output=True, timeout=120)
        options = ("-k", place, "-c", "listen_addresses=", "-c", "fsync=off", "-p", str(free_port()))
        with (Path(place) / "log").open("wb") as log:
            server = subprocess.Popen(
                installation.command("postgres", "-D", str(data), *options), stderr=log, stdout=log
            )
            try:
                yield Path(place)
            finally:
                os.kill(server.pid, signal.SIGINT)
                server.wait(30)


@asynccontextmanager
async def connected(directory: Path) -> AsyncIterator[asyncpg.Connection]:
    """Inside a transaction that is rolled back, with the schema and two doctors in it."""
    connection = await _connect(directory)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("CREATE ROLE locum_server LOGIN")
        for _ in range(2):
            await connection.execute(SCHEMA.read_text(encoding="utf-8"))
        await connection.execute("INSERT INTO site VALUES ($1, 'North', 'Europe/Berlin')", SITE)
        for room in (ROOM, OTHER_ROOM):
            await connection.execute("INSERT INTO room VALUES ($1, $2, 'A room')", room, SITE)
        for doctor in (DOCTOR, OTHER_DOCTOR):
            await connection.execute("INSERT INTO practitioner VALUES ($1, 'Dr', 'general')", doctor)
        for patient in ("ada", "bob"):
            await connection.execute("INSERT INTO patient VALUES ($1, '{}')", patient)
        yield connection
        await transaction.rollback()
    finally:
        await connection.close()


async def _connect(directory: Path) -> asyncpg.Connection:
    async with asyncio.timeout(60):
        while True:
            sockets = [path.name for path in directory.glob(".s.PGSQL.*") if not path.name.endswith(".lock")]
            try:
                if sockets:
                    port = int(sockets[0].rsplit(".", 1)[1])
                    return await asyncpg.connect(host=str(directory), port=port, user="postgres", database="postgres")
            except (OSError, asyncpg.CannotConnectNowError):
                pass
            await asyncio.sleep(0.05)


async def book(
    connection: asyncpg.Connection,
    doctor: uuid.UUID = DOCTOR,
    room: uuid.UUID = ROOM,
    patient: str | None = "ada",
    minutes: int = 0,
    status: str = "booked",
) -> None:
    """In a savepoint, so that a refusal does not end the transaction."""
    async with connection.transaction():
        await connection.execute(BOOK, uuid.uuid4(), status, doctor, room, patient, minutes)


async def test_nobody_is_booked_twice(socket_directory: Path) -> None:
    async with connected(socket_directory) as connection:
        await book(connection)
        clashes = (
            ("practitioner_once", DOCTOR, OTHER_ROOM, "bob"),
            ("room_once", OTHER_DOCTOR, ROOM, "bob"),
            ("patient_once", OTHER_DOCTOR, OTHER_ROOM, "ada"),
        )
        for constraint, doctor, room, patient in clashes:
            for minutes in (0, 10, -10):
                with pytest.raises(asyncpg.ExclusionViolationError) as caught:
                    await book(connection, doctor, room, patient, minutes)
                assert caught.value.constraint_name == constraint
        await book(connection, minutes=15)
        await book(connection, OTHER_DOCTOR, OTHER_ROOM, "bob")


async def test_a_hold_keeps_the_time_and_a_cancellation_frees_it(socket_directory: Path) -> None:
    async with connected(socket_directory) as connection:
        await book(connection, patient=None, status="pending")
        with pytest.raises(asyncpg.ExclusionViolationError):
            await book(connection, patient="bob")
        await connection.execute("UPDATE appointment SET status = 'cancelled', expires_at = NULL")
        await book(connection, patient="bob")


async def test_a_booking_needs_a_patient_and_a_hold_an_end(socket_directory: Path) -> None:
    async with connected(socket_directory) as connection:
        with pytest.raises(asyncpg.CheckViolationError):
            await book(connection, patient=None)
        await book(connection, status="pending")
        with pytest.raises(asyncpg.CheckViolationError):
            async with connection.transaction():
                await connection.execute("UPDATE appointment SET expires_at = NULL")


async def test_the_server_has_the_least_rights(socket_directory: Path) -> None:
    async with connected(socket_directory) as connection:
        await connection.execute("SET LOCAL ROLE locum_server")
        await book(connection)
        for statement in ("DELETE FROM appointment", "DROP TABLE appointment", "UPDATE practitioner SET name = 'x'"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with connection.transaction():
                    await connection.execute(statement)
