"""The promotion sequence on the candidate, as fast as PostgreSQL allows (DESIGN section 6, step 2)."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import asyncpg
import structlog

from replication.actions import Promote
from replication.errors import SQL_ERRORS, ActionFailed
from replication.model import Reason
from replication.node import Node
from replication.pidfds import ProcessWatch
from replication.proc import signal_titled
from replication.retries import until

_log = structlog.get_logger()

_DEADLINE_MS = 60_000
_RECEIVER_DEADLINE_MS = 5_000
_POLL_MS = 5
_RECEIVER_POLL_MS = 1

_RESUME = """
SELECT pg_is_in_recovery() AS recovering, CASE WHEN pg_is_in_recovery() THEN pg_wal_replay_resume() END,
  (SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup') AS startup_pid
"""
_RECEIVER = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'"
_PROMOTE = "SELECT pg_promote(wait => false)"
_END_CLIENTS = r"""
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND state IS DISTINCT FROM 'idle'
  AND NOT (usename = 'postgres' AND application_name LIKE 'locum\_%')
"""
"""An idle session holds no snapshot, hence nothing up: those that the server keeps for this moment go on."""
_PROMOTED = """
SELECT ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int AS timeline,
       (pg_last_wal_replay_lsn() - '0/0')::bigint AS fork_lsn
WHERE NOT pg_is_in_recovery()
"""
WARM_UP = (_RESUME, _RECEIVER, _PROMOTE, _END_CLIENTS, _PROMOTED)
"""What a connection that is kept ready for a promotion should have parsed before."""


class Steps(NamedTuple):
    """What a promotion needs of the agent."""

    write_settings: Callable[[], Awaitable[None]]
    """Write settings without an upstream, in the new term; nothing is read again yet."""
    reload: Callable[[], None]
    """Have every process of the node read them."""
    recorded: Callable[[], Awaitable[None]]
    """Return when the order to promote is on the agent's disk: all before can be taken back, nothing after."""


async def promote(
    node: Node, op: Promote, steps: Steps, connection: asyncpg.Connection | None = None
) -> tuple[int, int]:
    """Promote the local, running standby: (new timeline, LSN of the switch to it). `connection` is used up.

    From the moment the walreceiver is gone the old primary can acknowledge nothing; one that comes back is ended again
    until recovery is over. The standby's client sessions that do something are ended, so that no query of theirs holds
    replay up. Raises ActionFailed(DEADLINE, FAILED): whether it will still come true is then unknown, a pending
    promotion fires as soon as replay can go on.
    """
    del op
    try:
        connection = connection or await node.connect(application_name="locum_promote")
    except SQL_ERRORS as error:
        raise ActionFailed(Reason.FAILED, f"cannot connect to the standby: {error!r}") from error
    try:
        promoted = await _end_recovery(connection, steps)
    except SQL_ERRORS as error:
        raise ActionFailed(Reason.FAILED, f"the promotion broke off: {error!r}") from error
    finally:
        connection.terminate()
    # The last record that was replayed ends where the new timeline begins; the value stays after recovery.
    return promoted["timeline"], promoted["fork_lsn"]


async def _end_recovery(connection: asyncpg.Connection, steps: Steps) -> asyncpg.Record:
    began = time.monotonic()
    before, _ = await asyncio.gather(connection.fetchrow(_RESUME), steps.write_settings())
    if before["recovering"]:
        # It asks for walreceivers, and must know at once that there is no upstream. The others are told later: all of
        # them reading settings at the same time would hold up what clients wait for.
        signal_titled(before["startup_pid"], "startup", signal.SIGHUP)
        await _end_receiver(connection)
    receiver_gone = time.monotonic()
    await steps.recorded()
    if before["recovering"]:
        with contextlib.suppress(
            asyncpg.ObjectNotInPrerequisiteStateError
        ):  # held at its target, recovery has ended by now
            await connection.fetchval(_PROMOTE)
    steps.reload()
    promoted = await _out_of_recovery(connection, before["startup_pid"])
    _log.info(
        "agent.promoted",
        receiver_gone_ms=round((receiver_gone - began) * 1000, 1),
        took_ms=round((time.monotonic() - began) * 1000, 1),
    )
    return promoted


async def _end_receiver(connection: asyncpg.Connection) -> None:
    sentence = "the walreceiver does not end"

    async def gone() -> bool:
        return await _receiver_is_gone(connection)

    await until(gone, every_ms=_RECEIVER_POLL_MS, deadline_ms=_RECEIVER_DEADLINE_MS, sentence=sentence)


async def _receiver_is_gone(connection: asyncpg.Connection) -> bool:
    # pg_terminate_backend knows no auxiliary processes, and a startup process that a query holds up hears nothing of
    # the empty conninfo: only a signal ends the walreceiver for certain.
    pid = await connection.fetchval(_RECEIVER)
    if pid is not None:
        signal_titled(pid, "walreceiver", signal.SIGTERM)
    return pid is None


async def _out_of_recovery(connection: asyncpg.Connection, startup_pid: int | None) -> asyncpg.Record:
    """Until recovery is over, which the end of the startup process tells; meanwhile nothing may hold it up."""
    promoted: list[asyncpg.Record] = []
    ended = asyncio.Event()
    startup = ProcessWatch(lambda *_: ended.set())
    startup.watch({startup_pid: "startup"} if startup_pid is not None else {})

    async def pause(seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await ended.wait()
        ended.clear()

    async def out_of_recovery() -> bool:
        promoted.extend(await connection.fetch(_PROMOTED))
        if not promoted:
            await connection.fetchval(_END_CLIENTS)
            await _receiver_is_gone(connection)
        return bool(promoted)

    sentence = "the standby has not left recovery; the promotion is still pending"
    try:
        await until(out_of_recovery, every_ms=_POLL_MS, deadline_ms=_DEADLINE_MS, sentence=sentence, pause=pause)
    finally:
        startup.close()
    return promoted[0]
