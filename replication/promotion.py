"""The promotion sequence on the candidate, as fast as PostgreSQL allows (DESIGN section 6, step 2)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import asyncpg
import structlog

from replication.actions import Promote
from replication.errors import ActionFailed
from replication.history import read_timeline
from replication.model import Reason
from replication.node import Node
from replication.retries import CONNECT_ERRORS, until

_log = structlog.get_logger()

_DEADLINE_MS = 60_000
_RECEIVER_DEADLINE_MS = 5_000
_POLL_MS = 2

_RESUME = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_wal_replay_resume() END"
_END_RECEIVER = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'walreceiver'"
_PROMOTE = "SELECT pg_promote(wait => false)"
_END_CLIENTS = r"""
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
  AND NOT (usename = 'postgres' AND application_name LIKE 'locum\_%')
"""
_RECOVERING = "SELECT pg_is_in_recovery()"
_TIMELINE = "SELECT ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int"


async def promote(node: Node, op: Promote, clear_upstream: Callable[[], Awaitable[None]]) -> tuple[int, int]:
    """Promote the local, running standby: (new timeline, LSN of the switch to it).

    `clear_upstream` writes settings without an upstream and has them read. From the moment the walreceiver is gone the
    old primary can acknowledge nothing; one that comes back is ended again until recovery is over. The standby's client
    sessions are ended, so that no query of theirs holds replay up. Raises ActionFailed(DEADLINE, FAILED): whether it
    will still come true is then unknown, a pending promotion fires as soon as replay can go on.
    """
    del op
    try:
        connection = await node.connect(application_name="locum_promote")
    except CONNECT_ERRORS as error:
        raise ActionFailed(Reason.FAILED, f"cannot connect to the standby: {error!r}") from error
    try:
        if await connection.fetchval(_RECOVERING):
            await _end_recovery(connection, clear_upstream)
        timeline = int(await connection.fetchval(_TIMELINE))
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise ActionFailed(Reason.FAILED, f"the promotion broke off: {error!r}") from error
    finally:
        connection.terminate()
    history = await asyncio.to_thread(read_timeline, node.data_dir / "pg_wal", timeline)
    return timeline, history.begins(timeline)


async def _end_recovery(connection: asyncpg.Connection, clear_upstream: Callable[[], Awaitable[None]]) -> None:
    began = time.monotonic()
    await connection.execute(_RESUME)
    await clear_upstream()

    async def receiver_is_gone() -> bool:
        return not await connection.fetchval(_END_RECEIVER)

    sentence = "the walreceiver does not end"
    await until(receiver_is_gone, every_ms=_POLL_MS, deadline_ms=_RECEIVER_DEADLINE_MS, sentence=sentence)
    receiver_gone = time.monotonic()
    await connection.execute(_PROMOTE)
    await connection.execute(_END_CLIENTS)

    async def out_of_recovery() -> bool:
        if not await connection.fetchval(_RECOVERING):
            return True
        await connection.execute(_END_RECEIVER)
        return False

    sentence = "the standby has not left recovery; the promotion is still pending"
    await until(out_of_recovery, every_ms=_POLL_MS, deadline_ms=_DEADLINE_MS, sentence=sentence)
    _log.info(
        "agent.promoted",
        receiver_gone_ms=round((receiver_gone - began) * 1000, 1),
        took_ms=round((time.monotonic() - began) * 1000, 1),
    )
