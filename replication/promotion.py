"""The promotion sequence on the candidate, as fast as PostgreSQL allows (DESIGN section 6, step 2)."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

import asyncpg
import structlog

from replication.actions import Promote
from replication.errors import SQL_ERRORS, ActionFailed
from replication.model import Reason
from replication.node import Node
from replication.proc import signal_titled
from replication.retries import until

_log = structlog.get_logger()

_DEADLINE_MS = 60_000
_RECEIVER_DEADLINE_MS = 5_000
_POLL_MS = 2

_RESUME = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_wal_replay_resume() END"
_RECEIVER = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'"
_PROMOTE = "SELECT pg_promote(wait => false)"
_END_CLIENTS = r"""
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
  AND NOT (usename = 'postgres' AND application_name LIKE 'locum\_%')
"""
_PROMOTED = """
SELECT ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int AS timeline,
       (pg_last_wal_replay_lsn() - '0/0')::bigint AS fork_lsn
WHERE NOT pg_is_in_recovery()
"""
WARM_UP = (_RESUME, _RECEIVER, _PROMOTE, _END_CLIENTS, _PROMOTED)
"""What a connection that is kept ready for a promotion should have parsed before."""


async def promote(
    node: Node,
    op: Promote,
    clear_upstream: Callable[[], Awaitable[None]],
    connection: asyncpg.Connection | None = None,
) -> tuple[int, int]:
    """Promote the local, running standby: (new timeline, LSN of the switch to it). `connection` is used up.

    `clear_upstream` writes settings without an upstream and has them read. From the moment the walreceiver is gone the
    old primary can acknowledge nothing; one that comes back is ended again until recovery is over. The standby's client
    sessions are ended, so that no query of theirs holds replay up. Raises ActionFailed(DEADLINE, FAILED): whether it
    will still come true is then unknown, a pending promotion fires as soon as replay can go on.
    """
    del op
    try:
        connection = connection or await node.connect(application_name="locum_promote")
    except SQL_ERRORS as error:
        raise ActionFailed(Reason.FAILED, f"cannot connect to the standby: {error!r}") from error
    try:
        promoted = await connection.fetchrow(_PROMOTED) or await _end_recovery(connection, clear_upstream)
    except SQL_ERRORS as error:
        raise ActionFailed(Reason.FAILED, f"the promotion broke off: {error!r}") from error
    finally:
        connection.terminate()
    # The last record that was replayed ends where the new timeline begins; the value stays after recovery.
    return promoted["timeline"], promoted["fork_lsn"]


async def _end_recovery(
    connection: asyncpg.Connection, clear_upstream: Callable[[], Awaitable[None]]
) -> asyncpg.Record:
    began = time.monotonic()
    promoted: asyncpg.Record | None = None
    await asyncio.gather(connection.fetchval(_RESUME), clear_upstream())

    async def receiver_is_gone() -> bool:
        # pg_terminate_backend knows no auxiliary processes, and a startup process that a query holds up hears nothing of
        # the empty conninfo: only a signal ends the walreceiver for certain.
        pid = await connection.fetchval(_RECEIVER)
        if pid is not None:
            signal_titled(pid, "walreceiver", signal.SIGTERM)
        return pid is None

    sentence = "the walreceiver does not end"
    await until(receiver_is_gone, every_ms=_POLL_MS, deadline_ms=_RECEIVER_DEADLINE_MS, sentence=sentence)
    receiver_gone = time.monotonic()
    await connection.fetchval(_PROMOTE)
    await connection.fetchval(_END_CLIENTS)

    async def out_of_recovery() -> bool:
        nonlocal promoted
        promoted = await connection.fetchrow(_PROMOTED)
        if promoted is None:
            await receiver_is_gone()
        return promoted is not None

    sentence = "the standby has not left recovery; the promotion is still pending"
    await until(out_of_recovery, every_ms=_POLL_MS, deadline_ms=_DEADLINE_MS, sentence=sentence)
    _log.info(
        "agent.promoted",
        receiver_gone_ms=round((receiver_gone - began) * 1000, 1),
        took_ms=round((time.monotonic() - began) * 1000, 1),
    )
    return promoted
