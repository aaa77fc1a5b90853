"""The proof that commits wait for a standby: `sync_state` alone proves nothing (DESIGN section 4, Grow)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import structlog

from replication.actions import Grow
from replication.client import AgentClient
from replication.errors import SQL_ERRORS, ActionFailed
from replication.model import Growth, Reason
from replication.node import Node
from replication.retries import until
from replication.sql_write import bounded
from replication.wire.errors import WireError

_log = structlog.get_logger()

_SYNC_DEADLINE_MS = 1_000
_WAIT_SEEN_DEADLINE_MS = 500
_STAYS_S = 0.02
_RETURN_DEADLINE_S = 3.0
_FLUSH_DEADLINE_MS = 2_000
_POLL_MS = 2

_SENDER = """
SELECT pid, backend_start::text, (flush_lsn - '0/0')::bigint AS flush_lsn FROM pg_stat_replication
WHERE application_name = $1 AND sync_state IN ('sync', 'quorum') AND state = 'streaming'
"""
_PROBE = "SELECT pg_logical_emit_message(true, 'locum.growth', '')"
_WAITS = "SELECT coalesce(wait_event = 'SyncRep', false) FROM pg_stat_activity WHERE pid = $1"
_INSERT_LSN = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"


class _NotProved(Exception):
    """Some step showed that commits may not wait."""


_EXPECTED: tuple[type[Exception], ...] = (_NotProved, ActionFailed, WireError, *SQL_ERRORS)


async def prove_growth(node: Node, client: AgentClient, op: Grow, revision: int) -> Growth:
    """Prove it for the walsender that streams to `op.name`; the name was set and is shown.

    Replay on the standby is paused, and a commit that asks for remote_apply must then wait, and stay waiting, until
    replay is resumed. What fails is told in the result; raises ActionFailed only when nothing could be tried.
    """
    growth = Growth(
        revision=revision,
        name=op.name,
        proved=False,
        sentence="",
        primary_incarnation=op.incarnation,
        standby_incarnation=op.standby_incarnation,
    )
    began = time.monotonic()
    async with _connection(node) as watcher, _connection(node) as prober:
        try:
            sender = await _wait_for_sync(watcher, op.name)
            await _check_standby(client, op)
            await _prove_waiting(watcher, prober, client)
            insert_lsn = int(await watcher.fetchval(_INSERT_LSN))
            await _wait_for_flush(watcher, op.name, sender, insert_lsn)
            await _check_standby(client, op)
        except _EXPECTED as error:
            return _with(growth, sentence=str(error) or type(error).__name__)
    took_ms = (time.monotonic() - began) * 1000
    return _with(
        growth,
        proved=True,
        sentence=f"commits wait for {op.name}, proved in {took_ms:.0f} ms",
        walsender_pid=sender["pid"],
        walsender_backend_start=sender["backend_start"],
        insert_lsn=insert_lsn,
    )


async def _wait_for_sync(watcher: asyncpg.Connection, name: str) -> asyncpg.Record:
    found: list[asyncpg.Record] = []

    async def is_sync() -> bool:
        found[:] = await watcher.fetch(_SENDER, name)
        return len(found) == 1

    sentence = f"no walsender of {name} has become synchronous"
    await until(is_sync, every_ms=_POLL_MS, deadline_ms=_SYNC_DEADLINE_MS, sentence=sentence)
    return found[0]


async def _prove_waiting(watcher: asyncpg.Connection, prober: asyncpg.Connection, client: AgentClient) -> None:
    await prober.execute("SET synchronous_commit = remote_apply")
    probe: asyncio.Task[None] | None = None
    try:
        await client.pause_replay()
        work = prober.execute(_PROBE)
        probe = asyncio.ensure_future(bounded(prober, work, deadline_s=_RETURN_DEADLINE_S, what="the growth probe"))
        await _see_it_wait(watcher, prober.get_server_pid(), probe)
    except BaseException:
        if probe is not None:
            probe.cancel()  # bounded() ends it without a cancel request
            with contextlib.suppress(asyncio.CancelledError, ActionFailed, asyncpg.PostgresError, OSError):
                await probe
        raise
    finally:
        await asyncio.shield(_resume(client))
    await probe


async def _resume(client: AgentClient) -> None:
    """Always, also when the pause's own answer was lost; a standby that is not reached lifts it itself after a second."""
    try:
        await client.resume_replay()
    except WireError as error:
        _log.warning("agent.replay_resume_unanswered", sentence=str(error))


async def _see_it_wait(watcher: asyncpg.Connection, pid: int, probe: asyncio.Task[None]) -> None:
    async def waits() -> bool:
        if probe.done():
            raise _NotProved("the probe commit came back although replay was paused: commits do not wait yet")
        return bool(await watcher.fetchval(_WAITS, pid))

    sentence = "the probe commit was never seen to wait for the standby"
    await until(waits, every_ms=_POLL_MS, deadline_ms=_WAIT_SEEN_DEADLINE_MS, sentence=sentence)
    end = time.monotonic() + _STAYS_S
    while time.monotonic() < end:
        if not await waits():
            raise _NotProved("the probe commit stopped waiting before replay was resumed")
        await asyncio.sleep(_POLL_MS / 1000)


async def _wait_for_flush(watcher: asyncpg.Connection, name: str, sender: asyncpg.Record, insert_lsn: int) -> None:
    """Commits that were in flight when the name was set did not wait: the standby must have passed them all."""

    async def passed() -> bool:
        rows = await watcher.fetch(_SENDER, name)
        if len(rows) != 1 or (rows[0]["pid"], rows[0]["backend_start"]) != (sender["pid"], sender["backend_start"]):
            raise _NotProved(f"the walsender of {name} was replaced during the proof")
        return bool((rows[0]["flush_lsn"] or 0) >= insert_lsn)

    sentence = f"{name} has not flushed what the primary had written before"
    await until(passed, every_ms=_POLL_MS, deadline_ms=_FLUSH_DEADLINE_MS, sentence=sentence)


async def _check_standby(client: AgentClient, op: Grow) -> None:
    incarnation = (await client.observe()).incarnation
    if incarnation != op.standby_incarnation:
        raise _NotProved(f"the standby was started anew ({incarnation}) since the proof was asked for")


@contextlib.asynccontextmanager
async def _connection(node: Node) -> AsyncIterator[asyncpg.Connection]:
    try:
        connection = await node.connect()
    except SQL_ERRORS as error:
        raise ActionFailed(Reason.FAILED, f"cannot connect to the primary: {error!r}") from error
    try:
        yield connection
    finally:
        connection.terminate()


def _with(growth: Growth, **changes: object) -> Growth:
    return msgspec.structs.replace(growth, **changes)
