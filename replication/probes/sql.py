"""The SQL probe: one query over the unix socket that says everything PostgreSQL knows of itself, 15 to 18, either role."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

import asyncpg
import msgspec

from replication.crowding import TIMES
from replication.errors import SQL_ERRORS, ActionFailed
from replication.model import Reason, Receiver, Slot, Walsender
from replication.node import Node
from replication.probes.data_stall import WAITS
from replication.settings_file import parse_names
from replication.sql_write import bounded

_QUERY = """
WITH here AS MATERIALIZED (SELECT pg_is_in_recovery() AS standby)
SELECT json_build_object(
  'in_recovery', standby,
  'timeline', CASE WHEN standby THEN greatest(
      (SELECT received_tli FROM pg_stat_wal_receiver),
      (SELECT timeline_id FROM pg_control_checkpoint()),
      (SELECT min_recovery_end_timeline FROM pg_control_recovery()))
    ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int END,
  'insert_lsn', CASE WHEN NOT standby THEN (pg_current_wal_insert_lsn() - '0/0')::bigint END,
  'flush_lsn', CASE WHEN NOT standby THEN (pg_current_wal_flush_lsn() - '0/0')::bigint END,
  'receive_lsn', CASE WHEN standby THEN (pg_last_wal_receive_lsn() - '0/0')::bigint END,
  'replay_lsn', CASE WHEN standby THEN (pg_last_wal_replay_lsn() - '0/0')::bigint END,
  'replay_paused', CASE WHEN standby THEN pg_get_wal_replay_pause_state() <> 'not paused' ELSE false END,
  'names', current_setting('synchronous_standby_names'),
  'term', current_setting('locum.term', true),
  'walsenders', coalesce((SELECT json_agg(json_build_object(
      'name', application_name, 'pid', pid, 'backend_start', backend_start::text, 'state', coalesce(state, ''),
      'sync_state', coalesce(sync_state, ''), 'flush_lsn', (flush_lsn - '0/0')::bigint,
      'replay_lsn', (replay_lsn - '0/0')::bigint) ORDER BY pid) FROM pg_stat_replication), '[]'),
  'commit_waiting_ms', (SELECT (max(extract(epoch FROM clock_timestamp() - query_start)) * 1000)::bigint
      FROM pg_stat_activity WHERE wait_event = 'SyncRep'),
  'wal_waits', coalesce((SELECT json_agg(pid) FROM pg_stat_activity
      WHERE lower(wait_event) IN ('walsync', 'walwrite', 'walinitsync', 'walinitwrite')), '[]'),
  'data_waits', coalesce((SELECT json_object_agg(pid, lower(wait_event)) FROM pg_stat_activity
      WHERE lower(wait_event) = ANY ($1)), '{}'),
  'receiver', (SELECT json_build_object('pid', pid, 'status', coalesce(status, ''),
      'name', coalesce(substring(conninfo FROM 'application_name=(\\S+)'), ''),
      'sender_port', coalesce(sender_port, 0), 'received_tli', coalesce(received_tli, 0)) FROM pg_stat_wal_receiver),
  'slots', coalesce((SELECT json_agg(json_build_object(
      'name', slot_name, 'active', active, 'wal_status', wal_status) ORDER BY slot_name)
      FROM pg_replication_slots WHERE slot_type = 'physical'), '[]'),
  'commit_overrides', coalesce((SELECT json_agg(concat_ws(' ', 'role ' || r.rolname, 'database ' || d.datname, entry)
      ORDER BY r.rolname, d.datname)
      FROM pg_db_role_setting s CROSS JOIN unnest(setconfig) entry
      LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
      WHERE entry LIKE 'synchronous_commit=%'), '[]'),
  'redo_lsn', (SELECT (redo_lsn - '0/0')::bigint FROM pg_control_checkpoint())
)::text FROM here
"""


class SqlFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One moment of one node; the fields are those of NodeReport, LSNs integers, None where the role has no such thing.

    `receiver_pid` is the walreceiver's process, `term` what `locum.term` says, `wal_waits` who waits for WAL to be on the disk,
    `data_waits` who waits for a block of a data file, and in which wait event.
    """

    in_recovery: bool
    timeline: int
    insert_lsn: int | None
    flush_lsn: int | None
    receive_lsn: int | None
    replay_lsn: int | None
    replay_paused: bool
    names: tuple[str, ...]
    term: int | None
    walsenders: tuple[Walsender, ...]
    commit_waiting_ms: int | None
    wal_waits: frozenset[int] = frozenset()
    data_waits: Mapping[int, str] = msgspec.field(default_factory=dict)
    receiver: Receiver | None
    receiver_pid: int | None
    slots: tuple[Slot, ...]
    commit_overrides: tuple[str, ...]
    redo_lsn: int | None

    @property
    def wal_on_disk(self) -> int | None:
        """Where the WAL on this node's disk ends. A standby has what it received, whether or not it can replay it; after a restart
        its receive LSN begins again at a segment's start, below what it has replayed."""
        known = (self.receive_lsn, self.replay_lsn) if self.in_recovery else (self.flush_lsn,)
        return max((lsn for lsn in known if lsn is not None), default=None)


class _ReceiverRow(msgspec.Struct):
    pid: int
    status: str
    name: str
    sender_port: int
    received_tli: int


class _Row(msgspec.Struct):
    in_recovery: bool
    timeline: int
    insert_lsn: int | None
    flush_lsn: int | None
    receive_lsn: int | None
    replay_lsn: int | None
    replay_paused: bool
    names: str
    term: str | None
    walsenders: tuple[Walsender, ...]
    commit_waiting_ms: int | None
    wal_waits: frozenset[int]
    data_waits: dict[int, str]
    receiver: _ReceiverRow | None
    slots: tuple[Slot, ...]
    commit_overrides: tuple[str, ...]
    redo_lsn: int | None


class SqlProbe:
    """Keeps one connection; a probe that fails or is late drops it, and the next one connects anew."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._connection: asyncpg.Connection | None = None

    async def run(self, allowed: Callable[[], int] = lambda: 1) -> SqlFacts:
        """One probe, within `probe_deadline_ms`, or so many times that as `allowed` says when it has passed. Raises
        ActionFailed(DEADLINE) or one of SQL_ERRORS."""
        deadline_s = self._node.settings.probe_deadline_ms / 1000
        asked = asyncio.ensure_future(self._asked(TIMES * deadline_s))
        try:
            done, _ = await asyncio.wait({asked}, timeout=deadline_s)
            more = allowed() - 1 if not done else 0
            if more:
                done, _ = await asyncio.wait({asked}, timeout=more * deadline_s)
        finally:
            if not asked.done():
                asked.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asked
        if not done:
            said = f"the SQL probe did not return within {(1 + more) * deadline_s:g} s; its outcome is unknown"
            raise ActionFailed(Reason.DEADLINE, said)
        return asked.result()

    async def _asked(self, deadline_s: float) -> SqlFacts:
        kept = self._connection is not None and not self._connection.is_closed()
        try:
            return await self._ask(deadline_s)
        except SQL_ERRORS:
            if not kept:
                raise
        # Somebody ended the connection that was kept: that says nothing of the server.
        return await self._ask(deadline_s)

    async def _ask(self, deadline_s: float) -> SqlFacts:
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._node.connect(application_name="locum_probe", deadline_s=deadline_s)
            work = self._connection.fetchval(_QUERY, WAITS)
            return decode_facts(await bounded(self._connection, work, deadline_s=deadline_s, what="the SQL probe"))
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """Forget the connection without a word to the server, which may not be listening."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def close(self) -> None:
        """At the agent's end."""
        self.drop()


def decode_facts(text: str) -> SqlFacts:
    """The query's one JSON value as facts."""
    row = msgspec.json.decode(text, type=_Row)
    receiver = None
    if row.receiver is not None:
        name = row.receiver.name.strip("'")
        receiver = Receiver(row.receiver.status, name, row.receiver.sender_port, row.receiver.received_tli)
    return SqlFacts(
        in_recovery=row.in_recovery,
        timeline=row.timeline,
        insert_lsn=row.insert_lsn,
        flush_lsn=row.flush_lsn,
        receive_lsn=row.receive_lsn,
        replay_lsn=row.replay_lsn,
        replay_paused=row.replay_paused,
        names=parse_names(row.names),
        term=int(row.term) if row.term is not None and row.term.isdigit() else None,
        walsenders=row.walsenders,
        commit_waiting_ms=row.commit_waiting_ms,
        wal_waits=row.wal_waits,
        data_waits=row.data_waits,
        receiver=receiver,
        receiver_pid=row.receiver.pid if row.receiver is not None else None,
        slots=row.slots,
        commit_overrides=row.commit_overrides,
        redo_lsn=row.redo_lsn,
    )
