"""Questions to WAL whose connection is let go under them, as when PostgreSQL is stopped in their midst."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from replication.errors import SQL_ERRORS
from replication.scrub import wal_blocks
from replication.scrub.wal_questions import WalQuestions
from tests.nodes import one_node


@pytest.mark.parametrize("moment", ["before the question", "in the question"])
async def test_a_question_whose_connection_is_let_go_fails_as_questions_do_and_the_next_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Whoever asks knows what to do with these errors; another one would end the agent."""
    make_room = wal_blocks.make_room

    async def let_go_then(connection: asyncpg.Connection) -> None:
        await make_room(connection)
        wal.drop()

    async def slow(connection: asyncpg.Connection) -> None:
        asked.set()
        await connection.execute("SELECT pg_sleep(60)")

    async with one_node(tmp_path, scrub_enabled=False) as node:
        await node.first_start()
        wal, asked = WalQuestions(node.running.local), asyncio.Event()
        if not wal.has_images:
            pytest.skip("no room is made below PostgreSQL 16")
        async with asyncio.timeout(20):
            if moment == "before the question":
                with monkeypatch.context() as patched:
                    patched.setattr(wal_blocks, "make_room", let_go_then)
                    with pytest.raises(SQL_ERRORS):
                        await wal.ask(wal_blocks.written_to)
            else:
                question = asyncio.create_task(wal.ask(slow))
                await asked.wait()
                wal.drop()
                with pytest.raises(SQL_ERRORS):
                    await question
            assert await wal.ask(wal_blocks.written_to) > 0
        wal.drop()
