"""Before a start: is a stopped primary's WAL whole (compare_wal), is a standby's history the primary's (prove_history),
and after one: does the closed primary refuse everybody (check_closed). DESIGN section 4."""

from __future__ import annotations

import asyncpg

from replication.client import AgentClient, History, WalEnd
from replication.errors import SQL_ERRORS, ActionFailed, WalUnavailable
from replication.model import Comparison, Reason, WalComparison, format_lsn
from replication.node import DATABASE, ROLE_SERVER, Node
from replication.retries import until
from replication.threads import in_thread
from replication.wal_end import StoppedWal, read_stopped_wal
from replication.wal_files import hash_range, segment_start
from replication.wire.errors import WireError

_CONNECT_DEADLINE_S = 5.0
_FLUSHED_DEADLINE_MS = 1_000
_FLUSHED_POLL_MS = 50


async def compare_wal(node: Node, client: AgentClient, peer_name: str, revision: int) -> WalComparison:
    """Compare this stopped primary's WAL with that of its eligible peer, from the later of the two REDO segments up to
    the peer's end.

    Different, absent, shorter or unreadable here: `wal_lost`, the peer holds what was acknowledged. The peer does not
    answer: `peer_unreachable`; it cannot tell where its WAL ends: `unreadable`. Never raises for what it compares.
    """

    def told(
        outcome: Comparison, sentence: str, own: StoppedWal | None = None, peer: WalEnd | None = None
    ) -> WalComparison:
        return WalComparison(
            revision=revision,
            outcome=outcome,
            sentence=sentence,
            end_lsn=own.end_lsn if own is not None else None,
            timeline=own.timeline if own is not None else None,
            peer_end_lsn=peer.end_lsn if peer is not None else None,
            peer_incarnation=peer.incarnation if peer is not None else None,
        )

    try:
        peer = await client.wal_end()
    except WireError as error:
        return told(_not_asked(error), f"{peer_name} could not tell where its WAL ends: {error}")
    try:
        own = await read_stopped_wal(node)
    except ActionFailed as error:
        return told(Comparison.WAL_LOST, error.sentence, None, peer)
    if own.end_lsn < peer.end_lsn:
        sentence = f"it ends at {format_lsn(own.end_lsn)}, below {format_lsn(peer.end_lsn)}, where {peer_name}'s ends"
        return told(Comparison.WAL_LOST, sentence, own, peer)
    if not own.history.contains(peer.timeline, peer.end_lsn):
        sentence = f"{peer_name} is on timeline {peer.timeline}, which is no part of this node's {own.timeline}"
        return told(Comparison.WAL_LOST, sentence, own, peer)
    start = min(segment_start(max(own.control.redo_lsn, peer.redo_lsn)), segment_start(peer.end_lsn - 1))
    try:
        ours = await _own_hash(node, own, peer.timeline, start, peer.end_lsn)
    except (WalUnavailable, OSError, ValueError) as error:
        return told(Comparison.WAL_LOST, f"its WAL cannot be read: {error}", own, peer)
    try:
        theirs = await client.wal_hash(peer.timeline, start, peer.end_lsn)
    except WireError as error:
        return told(_not_asked(error), f"{peer_name} could not give a hash of its WAL: {error}", own, peer)
    between = f"between {format_lsn(start)} and {format_lsn(peer.end_lsn)}"
    if theirs is None:
        return told(Comparison.UNREADABLE, f"{peer_name} no longer has its own WAL {between}", own, peer)
    if theirs.sha256 != ours:
        return told(Comparison.WAL_LOST, f"its WAL differs from {peer_name}'s {between}", own, peer)
    return told(Comparison.EQUAL, f"its WAL equals {peer_name}'s {between}", own, peer)


async def read_own_end(node: Node, revision: int) -> WalComparison:
    """Where this stopped node's WAL ends, for the lone rule: after a start it would be hidden by what recovery writes."""
    try:
        own = await read_stopped_wal(node)
    except ActionFailed as error:
        return WalComparison(revision, Comparison.WAL_LOST, error.sentence)
    sentence = f"its WAL ends at {format_lsn(own.end_lsn)} on timeline {own.timeline}"
    return WalComparison(revision, Comparison.ALONE, sentence, own.end_lsn, own.timeline)


async def prove_history(node: Node, client: AgentClient, upstream_name: str) -> None:
    """Prove that everything in this stopped node's WAL is the running primary's own history.

    Its last complete record must lie at or below the fork and be byte-equal at the same LSN there, with all before it
    that both still have. Raises ActionFailed: HISTORY_DIFFERS (also when the primary has recycled the WAL in question:
    rebuild), CANNOT_ASK, AHEAD (its WAL ends above the primary's), FAILED (its own WAL cannot be read).
    """
    own = await read_stopped_wal(node)
    try:
        await _check_primary(client, own, upstream_name)
        history = await client.history()
        _check_fork(own, history, upstream_name)
        await _check_not_ahead(client, own, upstream_name)
        await _check_bytes(node, own, client, upstream_name, history.timeline)
    except WireError as error:
        raise ActionFailed(Reason.CANNOT_ASK, f"{upstream_name} could not be asked for its history: {error}") from error


async def check_closed(node: Node) -> None:
    """A closed primary refuses the server with 28000. Raises ActionFailed(NOT_CLOSED) when it does anything else."""
    try:
        connection = await asyncpg.connect(
            host=node.settings.postgres_host,
            port=node.settings.postgres_port,
            user=ROLE_SERVER,
            password=node.secret("server"),
            database=DATABASE,
            timeout=_CONNECT_DEADLINE_S,
            ssl=False,
        )
    except asyncpg.InvalidAuthorizationSpecificationError:
        return
    except SQL_ERRORS as error:
        raise ActionFailed(Reason.NOT_CLOSED, f"the check that it is closed went wrong: {error!r}") from error
    connection.terminate()
    raise ActionFailed(Reason.NOT_CLOSED, "a closed primary has let the server in")


async def _check_primary(client: AgentClient, own: StoppedWal, upstream_name: str) -> None:
    report = await client.observe()
    if report.in_recovery is not False or report.flush_lsn is None:
        raise ActionFailed(Reason.CANNOT_ASK, f"{upstream_name} does not run as primary, or does not answer its agent")
    if report.system_identifier != own.control.system_identifier:
        raise _differs(f"{upstream_name} is another cluster ({report.system_identifier})")


async def _check_not_ahead(client: AgentClient, own: StoppedWal, upstream_name: str) -> None:
    """A report may be older than the WAL in question: the primary is asked again for a moment."""
    flush_lsn = 0

    async def reached() -> bool:
        nonlocal flush_lsn
        flush_lsn = (await client.observe()).flush_lsn or 0
        return flush_lsn >= own.end_lsn

    try:
        await until(reached, every_ms=_FLUSHED_POLL_MS, deadline_ms=_FLUSHED_DEADLINE_MS, sentence="")
    except ActionFailed as error:
        sentence = f"its WAL ends at {format_lsn(own.end_lsn)}, above {format_lsn(flush_lsn)}, which is all that "
        raise ActionFailed(Reason.AHEAD, f"{sentence}{upstream_name} has flushed") from error


def _check_fork(own: StoppedWal, history: History, upstream_name: str) -> None:
    followed = own.history.timeline
    if followed != history.timeline and str(followed) not in history.forks:
        raise _differs(f"its timeline {followed} is no part of {upstream_name}'s timeline {history.timeline}")
    if own.timeline == history.timeline:
        return
    fork = history.forks.get(str(own.timeline))
    if fork is None:
        raise _differs(f"timeline {own.timeline} is no part of {upstream_name}'s timeline {history.timeline}")
    if own.end_lsn > fork:
        raise _differs(
            f"its WAL on timeline {own.timeline} ends at {format_lsn(own.end_lsn)}, above {format_lsn(fork)}, "
            f"where {upstream_name} left that timeline"
        )


async def _check_bytes(node: Node, own: StoppedWal, client: AgentClient, upstream_name: str, timeline: int) -> None:
    """From the own REDO segment on, which holds a checkpoint and so a time that no other history has; where the primary
    has recycled that, from a later segment on, down to that of the last record."""
    lsns = (own.control.redo_lsn, own.control.checkpoint_lsn, own.last_record_lsn)
    for start in sorted({segment_start(lsn) for lsn in lsns} | {own.last_record_lsn}):
        theirs = await client.wal_hash(timeline, start, own.end_lsn)
        if theirs is None:
            continue
        try:
            ours = await _own_hash(node, own, own.timeline, start, own.end_lsn)
        except (WalUnavailable, OSError, ValueError) as error:
            raise ActionFailed(Reason.FAILED, f"its own WAL cannot be read: {error}") from error
        if theirs.sha256 != ours:
            raise _differs(
                f"its WAL differs from {upstream_name}'s between {format_lsn(start)} and {format_lsn(own.end_lsn)}"
            )
        return
    raise _differs(f"{upstream_name} has recycled its WAL at {format_lsn(own.last_record_lsn)}")


async def _own_hash(node: Node, own: StoppedWal, timeline: int, start: int, end: int) -> str:
    return await in_thread(hash_range, node.data_dir / "pg_wal", own.history.for_range(timeline, end), start, end)


def _differs(sentence: str) -> ActionFailed:
    return ActionFailed(Reason.HISTORY_DIFFERS, f"{sentence}: rebuild this node")


def _not_asked(error: WireError) -> Comparison:
    return Comparison.PEER_UNREACHABLE if error.silence in ("refused", "timeout") else Comparison.UNREADABLE
