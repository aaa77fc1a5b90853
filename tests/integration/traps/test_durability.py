"""synchronous_commit is everybody's to lower, and nothing of Locum's is lowered by it (DESIGN section 4, who may confirm)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.integration.server.bodies import only
from tests.integration.server.clinic import clinic
from tests.integration.server.test_replay import in_sync_wait, set_names
from tests.nodes import one_node

LOWERED = (
    "ALTER ROLE locum_server SET synchronous_commit = 'off'",
    "ALTER DATABASE locum SET synchronous_commit = 'local'",
    "ALTER ROLE locum_server IN DATABASE locum SET synchronous_commit = 'off'",
)


async def test_the_servers_commits_wait_whatever_role_and_database_say(tmp_path: Path) -> None:
    """DESIGN 4: "`synchronous_commit` is a user setting that no privilege protects …: the server sets it at connect (which
    beats role and database settings)"."""
    async with clinic(tmp_path) as it:
        async with it.node.sql() as connection:
            for statement in LOWERED:
                await connection.execute(statement)
        await it.node.kill()
        await it.node.start(1)  # every connection of the server is new
        await it.ready()
        (slot,) = await it.proposals(1)
        await set_names(it, "ghost")
        booking = asyncio.create_task(it.book(slot, "ada"))
        await in_sync_wait(it)
        assert (await asyncio.wait({booking}, timeout=0.3))[0] == set()
        await set_names(it, "")
        status, body, _ = await booking
        assert (status, [only(body)["id"]]) == (201, [str(row["id"]) for row in await it.rows()])


@pytest.mark.both_versions
async def test_an_entry_that_lowers_it_is_told_by_the_agent(tmp_path: Path, bindir: Path) -> None:
    """DESIGN 4: "`synchronous_commit` is a user setting that no privilege protects … the agent raises an alarm on any
    `pg_db_role_setting` entry for it"."""
    async with one_node(tmp_path, bindir=bindir) as node:
        await node.first_start()
        client = await node.connect()
        await client.execute("REVOKE SET ON PARAMETER synchronous_commit FROM PUBLIC")  # has no effect
        for statement in (*LOWERED, "ALTER ROLE locum_server SET work_mem = '8MB'"):
            await client.execute(statement)
        report = await node.wait(lambda report: len(report.commit_overrides) == 3, deadline_s=5)
        assert set(report.commit_overrides) == {
            "role locum_server synchronous_commit=off",
            "database locum synchronous_commit=local",
            "role locum_server database locum synchronous_commit=off",
        }
        server = await node.connect("locum_server")
        assert await server.fetchval("SHOW synchronous_commit") == "off", "the trap is not set"
        for statement in (
            "ALTER ROLE ALL RESET ALL",
            "ALTER ROLE locum_server RESET ALL",
            "ALTER DATABASE locum RESET ALL",
        ):
            await client.execute(statement)
        await client.execute("ALTER ROLE locum_server IN DATABASE locum RESET ALL")
        await node.wait(lambda report: report.commit_overrides == (), deadline_s=5)
        for connection in (client, server):
            connection.terminate()
