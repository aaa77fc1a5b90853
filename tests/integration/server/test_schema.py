"""The schema on a real PostgreSQL: it forbids what must never happen, and the server's role can do no more than it must.

(That it may be applied twice is how clinic.template makes its cluster.)
"""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from tests.integration.server.clinic import Node, template_in_thread

NINE = datetime(2030, 1, 1, 9, tzinfo=UTC)
BOOK = """
INSERT INTO appointment (id, version, status, slot_id, practitioner_id, location_id, patient_id, during,
                         hold_expires_at, created_at, updated_at)
VALUES ($1, 1, $2, $3, $4, $5, $6, tstzrange($7::timestamptz, $7::timestamptz + interval '15 minutes'), $8, now(), now())
"""
SLOT = uuid.UUID(int=1)


@asynccontextmanager
async def database(root: Path) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection to a database with two of everything."""
    await asyncio.to_thread(shutil.copytree, await asyncio.to_thread(template_in_thread), root / "a")
    node = Node("a", root / "a")
    try:
        await node.start(1)
        async with node.sql() as connection:
            await connection.execute("INSERT INTO site VALUES ('north', 'North', 'Europe/Berlin')")
            await connection.execute("INSERT INTO location VALUES ('room', 'A', 'north'), ('other-room', 'B', 'north')")
            await connection.execute("INSERT INTO patient VALUES ('ada'), ('bob')")
            await connection.execute(
                "INSERT INTO slot VALUES ($1, 'doctor', 'room', $2, $3)", SLOT, NINE, NINE + timedelta(minutes=15)
            )
            yield connection
    finally:
        await node.kill()


async def book(
    connection: asyncpg.Connection,
    doctor: str = "doctor",
    room: str = "room",
    patient: str | None = "ada",
    minutes: int = 0,
    status: str = "booked",
) -> None:
    ends = NINE if status == "pending" else None
    moment = NINE + timedelta(minutes=minutes)
    await connection.execute(BOOK, uuid.uuid4(), status, SLOT, doctor, room, patient, moment, ends)


async def test_what_must_never_happen_is_forbidden(tmp_path: Path) -> None:
    async with database(tmp_path) as connection:
        await book(connection)
        clashes = (
            ("appointment_practitioner_free", "doctor", "other-room", "bob"),
            ("appointment_location_free", "other-doctor", "room", "bob"),
            ("appointment_patient_free", "other-doctor", "other-room", "ada"),
        )
        for constraint, doctor, room, patient in clashes:
            for minutes in (0, 10, -10):
                with pytest.raises(asyncpg.ExclusionViolationError) as caught:
                    await book(connection, doctor, room, patient, minutes)
                assert caught.value.constraint_name == constraint
        await book(connection, minutes=15)
        await book(connection, "other-doctor", "other-room", "bob")

        await connection.execute("UPDATE appointment SET status = 'cancelled'")
        await book(connection, patient=None, status="pending")
        with pytest.raises(asyncpg.ExclusionViolationError):
            await book(connection, patient="bob")
        with pytest.raises(asyncpg.CheckViolationError):
            await book(connection, patient=None, minutes=60)
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute("UPDATE appointment SET hold_expires_at = NULL WHERE status = 'pending'")


async def test_the_server_has_the_least_rights(tmp_path: Path) -> None:
    async with database(tmp_path) as connection:
        await connection.execute("SET ROLE locum_server")
        await book(connection)
        await connection.fetchval("SELECT pg_logical_emit_message(true, 'locum.server', '')")
        for statement in (
            "DELETE FROM appointment",
            "DROP TABLE appointment",
            "UPDATE practitioner SET given = 'x'",
            "UPDATE slot SET starts_at = now()",
            "CREATE TABLE mine (x int)",
            "SELECT pg_read_file('PG_VERSION')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
