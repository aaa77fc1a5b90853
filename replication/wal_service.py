"""What this node tells its peers of its WAL: where it ends, hashes of its bytes, its timelines (docs/PROTOCOL.md)."""

from __future__ import annotations

import asyncio

from replication.client import History, WalEnd, WalHash
from replication.errors import ActionFailed, WalUnavailable
from replication.history import Timeline, read_timeline
from replication.local_node import LocalNode
from replication.model import Reason, format_lsn
from replication.probes.sql import SqlFacts
from replication.wal_end import read_stopped_wal
from replication.wal_files import hash_range

_STILL_MS = 100


async def answer_wal_end(local: LocalNode) -> WalEnd:
    """Of a stopped node the end of its last complete record; of a running standby its replay LSN, once the receiver is
    gone and replay stands still (never its receive LSN, which lies above the last complete record).

    Raises ActionFailed when it cannot be told now.
    """
    if local.memory.doing is not None and local.memory.doing.op in ("rebuild", "initdb"):
        raise ActionFailed(Reason.WRONG_STATE, f"{local.memory.doing.op} is under way")
    if not local.supervisor.running:
        wal = await read_stopped_wal(local.node)
        return WalEnd(
            end_lsn=wal.end_lsn,
            last_record_lsn=wal.last_record_lsn,
            timeline=wal.timeline,
            redo_lsn=wal.control.redo_lsn,
            live=False,
            incarnation=local.supervisor.incarnation,
        )
    before = await _facts(local)
    await asyncio.sleep(_STILL_MS / 1000)
    facts = await _facts(local)
    still = before.replay_lsn == facts.replay_lsn and before.receiver is None and facts.receiver is None
    if not facts.in_recovery or not still or facts.replay_paused or facts.replay_lsn is None or facts.redo_lsn is None:
        raise ActionFailed(Reason.WRONG_STATE, "its WAL still moves: only a standby whose replay stands still can tell")
    return WalEnd(
        end_lsn=facts.replay_lsn,
        last_record_lsn=None,
        timeline=facts.timeline,
        redo_lsn=facts.redo_lsn,
        live=True,
        incarnation=local.supervisor.incarnation,
    )


async def answer_wal_hash(local: LocalNode, timeline: int, start: int, end: int) -> WalHash:
    """The hash of [start, end) as this node has it. Raises WalUnavailable when it is not there or not flushed, and
    ActionFailed when the node does not know the timeline."""
    if not 0 < start < end:
        raise WalUnavailable(f"[{format_lsn(start)}, {format_lsn(end)}) is no range of WAL")
    flush_lsn: int | None = None
    newest = timeline
    if local.supervisor.running:
        facts = await _facts(local)
        flush_lsn = facts.receive_lsn or facts.replay_lsn if facts.in_recovery else facts.flush_lsn
        newest = max(timeline, facts.timeline)
        if flush_lsn is not None and end > flush_lsn:
            raise WalUnavailable(f"{format_lsn(end)} lies beyond {format_lsn(flush_lsn)}, which is flushed here")
    try:
        history = (await _history(local, newest)).up_to(timeline)
    except ValueError as error:
        raise ActionFailed(Reason.WRONG_STATE, f"this node never was on timeline {timeline}: {error}") from error
    digest = await asyncio.to_thread(hash_range, local.node.data_dir / "pg_wal", history, start, end)
    timelines = tuple(sorted({history.at(start), history.at(end - 1)}))
    return WalHash(sha256=digest, flush_lsn=flush_lsn, timelines=timelines)


async def answer_history(local: LocalNode) -> History:
    """The running node's timeline and where the earlier ones were left. Raises ActionFailed(WRONG_STATE) when down."""
    facts = await _facts(local)
    history = await _history(local, facts.timeline)
    return History(timeline=history.timeline, forks={str(ancestor): fork for ancestor, fork in history.forks})


async def _history(local: LocalNode, timeline: int) -> Timeline:
    try:
        return await asyncio.to_thread(read_timeline, local.node.data_dir / "pg_wal", timeline)
    except (OSError, ValueError) as error:
        raise ActionFailed(Reason.FAILED, f"the history of timeline {timeline} cannot be read: {error}") from error


async def _facts(local: LocalNode) -> SqlFacts:
    await local.refresh()
    facts = local.memory.sql.facts
    if facts is None or not local.supervisor.running or local.memory.sql.error is not None:
        raise ActionFailed(Reason.WRONG_STATE, "PostgreSQL does not run here, or does not answer")
    return facts
