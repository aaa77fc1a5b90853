"""What this node tells its peers of its WAL: where it ends, hashes of its bytes, its timelines (docs/PROTOCOL.md)."""

from __future__ import annotations

import asyncio
import time

from replication.client import History, WalEnd, WalError, WalHash
from replication.errors import ActionFailed, WalUnavailable
from replication.history import Timeline, newest_timeline, read_timeline
from replication.local_node import LocalNode
from replication.model import Reason, format_lsn
from replication.probes.sql import SqlFacts
from replication.threads import in_thread
from replication.wal_end import lasting_error, read_stopped_wal
from replication.wal_files import hash_range

_STILL_MS = 100
_STILL_DEADLINE_MS = 600
_STILL_POLL_MS = 10

_LIVE = """
SELECT (pg_last_wal_replay_lsn() - '0/0')::bigint AS replay_lsn,
  EXISTS (SELECT 1 FROM pg_stat_wal_receiver) AS receiving,
  pg_get_wal_replay_pause_state() <> 'not paused' AS paused,
  coalesce((SELECT wait_event IN ('RecoveryWalStream', 'RecoveryRetrieveRetryInterval') FROM pg_stat_activity
            WHERE backend_type = 'startup'), false) AS waits_for_wal
"""


async def answer_wal_end(local: LocalNode) -> WalEnd:
    """Of a stopped node the end of its last complete record; of a running standby its replay LSN, once the receiver is
    gone and replay stands still (never its receive LSN, which lies above the last complete record).

    Raises ActionFailed when it cannot be told now.
    """
    if local.memory.doing is not None and local.memory.doing.op in ("rebuild", "initdb"):
        raise ActionFailed(Reason.WRONG_STATE, f"{local.memory.doing.op} is under way")
    if local.supervisor.running:
        return await _live_end(local)
    incarnation = local.supervisor.incarnation
    wal = await read_stopped_wal(local.node)
    if local.supervisor.running or local.supervisor.incarnation != incarnation:
        raise ActionFailed(Reason.WRONG_STATE, "it was started while its WAL was read")
    return WalEnd(
        end_lsn=wal.end_lsn,
        last_record_lsn=wal.last_record_lsn,
        timeline=wal.timeline,
        redo_lsn=wal.control.redo_lsn,
        live=False,
        incarnation=incarnation,
    )


async def _live_end(local: LocalNode) -> WalEnd:
    facts = await _facts(local)
    if not facts.in_recovery or facts.redo_lsn is None:
        raise ActionFailed(Reason.WRONG_STATE, "it runs as primary: its WAL has no end")
    end_lsn = await _replayed_all(local)
    try:
        pg_wal = local.node.data_dir / "pg_wal"
        history = await in_thread(newest_timeline, pg_wal, facts.timeline, facts.redo_lsn)
    except (OSError, ValueError) as error:
        raise ActionFailed(Reason.FAILED, f"its timelines cannot be read: {error}") from error
    return WalEnd(
        end_lsn=end_lsn,
        last_record_lsn=None,
        timeline=history.at(end_lsn - 1),
        redo_lsn=facts.redo_lsn,
        live=True,
        incarnation=local.supervisor.incarnation,
    )


async def _replayed_all(local: LocalNode) -> int:
    """The replay LSN of a standby that receives nothing and has replayed all that it has.

    That replay stands still is not enough: a query may hold it up. So the startup process must also be seen to wait for
    more WAL (src/backend/access/transam/xlogrecovery.c, WaitForWALToBecomeAvailable).
    """
    async with local.connection() as connection:
        first = await connection.fetchrow(_LIVE)
        began = time.monotonic()
        waited_for_wal = False
        while True:
            row = await connection.fetchrow(_LIVE)
            took_ms = (time.monotonic() - began) * 1000
            waited_for_wal = waited_for_wal or row["waits_for_wal"]
            moves = row["receiving"] or row["replay_lsn"] != first["replay_lsn"]
            if moves or row["paused"] or row["replay_lsn"] is None or took_ms > _STILL_DEADLINE_MS:
                sentence = "its WAL still moves: only a standby that has replayed all it has can tell where it ends"
                raise ActionFailed(Reason.WRONG_STATE, sentence)
            if waited_for_wal and took_ms >= _STILL_MS:
                return int(row["replay_lsn"])
            await asyncio.sleep(_STILL_POLL_MS / 1000)


async def answer_wal_hash(local: LocalNode, timeline: int, start: int, end: int) -> WalHash:
    """The hash of [start, end) as this node has it. Raises WalUnavailable when it is not there or not flushed, and
    ActionFailed when the node does not know the timeline."""
    if not 0 < start < end:
        raise WalUnavailable(f"[{format_lsn(start)}, {format_lsn(end)}) is no range of WAL")
    flush_lsn: int | None = None
    newest = timeline
    if local.supervisor.running:
        facts = await _facts(local)
        flush_lsn = facts.wal_on_disk
        newest = max(timeline, facts.timeline)
        if flush_lsn is not None and end > flush_lsn:
            raise WalUnavailable(f"{format_lsn(end)} lies beyond {format_lsn(flush_lsn)}, which is flushed here")
    try:
        history = (await _history(local, newest)).for_range(timeline, end)
    except ValueError as error:
        raise ActionFailed(Reason.WRONG_STATE, f"this node never was on timeline {timeline}: {error}") from error
    digest = await in_thread(hash_range, local.node.data_dir / "pg_wal", history, start, end)
    timelines = tuple(sorted({history.at(start), history.at(end - 1)}))
    return WalHash(sha256=digest, flush_lsn=flush_lsn, timelines=timelines)


async def answer_wal_error(local: LocalNode, timeline: int, start: int, end: int) -> WalError:
    """Where recovery could not read [start, end) of this running node's WAL, twice. Raises WalUnavailable when not so much is
    flushed, ActionFailed when it cannot be told."""
    facts = await _facts(local)
    flush_lsn = facts.wal_on_disk
    if not 0 < start < end or flush_lsn is None or end > flush_lsn or timeline != facts.timeline:
        raise WalUnavailable(f"[{format_lsn(start)}, {format_lsn(end)}) of timeline {timeline} is not flushed here")
    found = await lasting_error(local.node, timeline, start, end)
    return WalError(*found) if found is not None else WalError(None)


async def answer_history(local: LocalNode) -> History:
    """The running node's timeline and where the earlier ones were left. Raises ActionFailed(WRONG_STATE) when down."""
    facts = await _facts(local)
    history = await _history(local, facts.timeline)
    return History(timeline=history.timeline, forks={str(ancestor): fork for ancestor, fork in history.forks})


async def _history(local: LocalNode, timeline: int) -> Timeline:
    try:
        return await in_thread(read_timeline, local.node.data_dir / "pg_wal", timeline)
    except (OSError, ValueError) as error:
        raise ActionFailed(Reason.FAILED, f"the history of timeline {timeline} cannot be read: {error}") from error


async def _facts(local: LocalNode) -> SqlFacts:
    await local.refresh()
    facts = local.memory.sql.facts
    if facts is None or not local.supervisor.running or local.memory.sql.error is not None:
        raise ActionFailed(Reason.WRONG_STATE, "PostgreSQL does not run here, or does not answer")
    return facts
