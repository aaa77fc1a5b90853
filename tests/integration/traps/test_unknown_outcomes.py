"""What is not an acknowledgement, and what comes too late to be one (DESIGN section 4, unknown outcomes and reads)."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from replication.errors import ActionFailed
from replication.model import Role
from replication.sql_write import bounded
from server.errors import ConnectionLost, OutcomeUnknown
from server.link import Endpoint, Link, Login, open_link
from tests.integration.server.bodies import only
from tests.integration.server.clinic import Clinic, clinic, standby_of
from tests.integration.server.test_replay import conf, in_sync_wait, set_names
from tests.integration.traps import commits
from tests.nodes import HOST, NodeUnderTest, one_node

_INSERT = "INSERT INTO appointment VALUES (1, 'x') RETURNING id"
_WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND usename = 'locum_server'"
_ENDED = {
    "pg_cancel_backend": ("01000", "canceling wait for synchronous replication due to user request"),
    "pg_terminate_backend": ("57P01", "canceling the wait for synchronous replication and terminating connection"),
}
"""How the wait is ended, and the only sign of it (src/backend/replication/syncrep.c)."""


@asynccontextmanager
async def waits_for_a_ghost(root: Path, bindir: Path) -> AsyncIterator[tuple[NodeUnderTest, asyncpg.Connection]]:
    """A primary whose commits wait for ever, and somebody who looks on; time-outs are set that do not end such a wait."""
    async with one_node(root, bindir=bindir) as node:
        await node.first_start()
        observer = await node.running.node.connect(database="locum")
        await observer.execute("ALTER ROLE locum_server SET statement_timeout = '100ms'")
        if node.running.node.installation.version[0] >= 17:
            await observer.execute("ALTER ROLE locum_server SET transaction_timeout = '100ms'")
        await commits.set_names(node, "ghost")
        yield node, observer
        observer.terminate()


async def link_to(node: NodeUnderTest) -> Link:
    """As the server connects."""
    dsn = f"postgresql://locum_server@{HOST}:{node.settings.postgres_port}/locum"
    password = (node.settings.secrets_dir / "server").read_text().strip()
    return await open_link(Endpoint("a", dsn, 1, Role.PRIMARY), Login(password))


@pytest.mark.both_versions
@pytest.mark.parametrize("how", list(_ENDED))
async def test_a_cancelled_wait_for_synchronous_replication_is_not_an_acknowledgement(
    tmp_path: Path, bindir: Path, how: str
) -> None:
    """DESIGN 4: "A cancelled wait for synchronous replication is not an acknowledgement: Postgres commits locally, the driver
    returns `INSERT 0 1`, and the only sign is a WARNING, SQLSTATE 01000"."""
    async with waits_for_a_ghost(tmp_path, bindir) as (node, observer):
        heard: list[asyncpg.PostgresLogMessage] = []
        link = await link_to(node)
        link._connection.add_log_listener(lambda _, message: heard.append(message))
        writing = asyncio.create_task(link.write(_INSERT, deadline_s=10))
        await commits.until_waiting(node)
        await observer.fetchval(f"SELECT {how}($1)", await observer.fetchval(_WAITING))
        with pytest.raises((OutcomeUnknown, ConnectionLost)):
            await writing
        (warning,) = heard
        assert warning.sqlstate == _ENDED[how][0] and _ENDED[how][1] in str(warning)
        assert await observer.fetchval("SELECT count(*) FROM appointment") == 1, "the trap is not set"
        link.terminate()


@pytest.mark.both_versions
async def test_no_time_out_ends_the_wait_and_the_deadline_cancels_nothing(tmp_path: Path, bindir: Path) -> None:
    """DESIGN 4: "asyncpg sends a cancel request on every time-out and task cancellation, so no `timeout=` … directly around a
    write … (`statement_timeout` and `transaction_timeout` do not end the wait"."""

    async def by_deadline(link: Link) -> None:
        with pytest.raises(ConnectionLost):
            await link.write(_INSERT, deadline_s=0.5)

    async def by_cancellation(link: Link) -> None:
        writing = asyncio.create_task(link.write(_INSERT.replace("1,", "2,"), deadline_s=10))
        await asyncio.sleep(0.5)  # longer than the time-outs that are set
        assert not writing.done()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing

    async with waits_for_a_ghost(tmp_path, bindir) as (node, observer):
        for number, end in enumerate((by_deadline, by_cancellation), start=1):
            await end(await link_to(node))
            await still_waiting(observer, number)
        await agents_write(node, observer)
        await commits.set_names(node)


async def agents_write(node: NodeUnderTest, observer: asyncpg.Connection) -> None:
    """The same for a write of the agent's."""
    connection = await node.connect("locum_server")
    work: Callable[[], Coroutine[Any, Any, Any]] = lambda: connection.fetchval(_INSERT.replace("1,", "3,"))  # noqa: E731
    with pytest.raises(ActionFailed):
        await bounded(connection, work(), deadline_s=0.5, what="a write")
    await still_waiting(observer, 3)


async def still_waiting(observer: asyncpg.Connection, count: int) -> None:
    """So many backends wait on, and nothing of theirs is to be seen: a cancel request would have ended that by now."""
    await asyncio.sleep(0.2)
    assert len(await observer.fetch(_WAITING)) == count
    assert await observer.fetchval("SELECT count(*) FROM appointment") == 0


async def test_a_replay_on_the_same_primary_waits_for_the_first_attempts_wait(tmp_path: Path) -> None:
    """DESIGN 4: "a replay on the same primary blocks on it (the idempotency row) until the first attempt's wait ends, then
    conflicts"."""
    async with clinic(tmp_path) as it:
        (slot,) = await it.proposals(1)
        await set_names(it, "ghost")
        booking = asyncio.create_task(it.book(slot, "ada", Idempotency_Key="k1"))
        (first,) = await in_sync_wait(it)
        lose_busy_connections(it)
        async with it.node.sql() as observer:
            blocked = "SELECT pid, pg_blocking_pids(pid) AS by FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            async with asyncio.timeout(10):
                while not (rows := await observer.fetch(blocked)):
                    await asyncio.sleep(0.01)
            assert [list(row["by"]) for row in rows] == [[first]]
        assert not booking.done()
        await set_names(it, "")
        status, body, _ = await booking
        assert (status, [only(body)["id"]]) == (201, [str(row["id"]) for row in await it.rows()])


def lose_busy_connections(it: Clinic) -> None:
    """The path to the database breaks under what is under way; the backends notice nothing."""
    assert it.shared is not None
    pool = it.shared.database.primary
    assert pool is not None
    for link in list(pool._busy):
        link._connection.terminate()


async def test_a_read_that_lay_in_a_stopped_primarys_socket_is_thrown_away(tmp_path: Path) -> None:
    """DESIGN 4: "The server closes the old pool at a higher term and discards what comes back on a connection of an older
    term, reads too (a query that lay in the socket of a stopped primary was answered 18 ms after SIGCONT"."""
    async with clinic(tmp_path, lease_ttl_ms=60_000) as it:
        (slot,) = await it.proposals(1)
        made = only((await it.book(slot, "ada"))[1])
        standby = await standby_of(it.node, tmp_path)
        try:
            await standby.start(1)
            it.node.signal(signal.SIGSTOP)
            reading = asyncio.create_task(it.call(f"/fhir/Appointment/{made['id']}"))
            async with standby.sql() as connection:
                await connection.execute("SELECT pg_promote(true)")
                await connection.execute("UPDATE appointment SET comment = 'changed since', version = version + 1")
            await standby.reload(conf(standby, 2))
            it.publish(2, standby)
            it.node.signal(signal.SIGCONT)
            status, found, _ = await reading
            assert (status, found.get("comment")) == (200, "changed since"), found
        finally:
            await standby.kill()


async def test_ids_are_the_servers_and_no_sequence_gives_any(tmp_path: Path) -> None:
    """DESIGN 4: "Ids come from the server (UUIDv7), never from a sequence: `nextval` is not waited for; the standby would
    hand the value out again"."""
    async with clinic(tmp_path) as it:
        first, second = await it.proposals(2)
        ids = [uuid.UUID(only((await it.book(*pair))[1])["id"]) for pair in ((first, "ada"), (second, "bob"))]
        assert [one.version for one in ids] == [7, 7]
        assert ids == sorted(ids)
        async with it.node.sql() as connection:
            assert await connection.fetchval("SELECT count(*) FROM pg_class WHERE relkind = 'S'") == 0
            generated = "SELECT count(*) FROM pg_attribute WHERE attidentity <> '' AND NOT attisdropped"
            assert await connection.fetchval(generated) == 0
