"""Keeps the SQL facts fresh: a probe every interval, at once after events, and never two at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from replication.errors import SQL_ERRORS, ReplicationError
from replication.faults import fault_of
from replication.memory import Memory, clock_ms
from replication.model import Postmaster
from replication.pidfds import ProcessWatch
from replication.probes.sql import SqlFacts, SqlProbe
from replication.supervisor import Supervisor

_log = structlog.get_logger()

_PROBE_ERRORS: tuple[type[Exception], ...] = (ReplicationError, *SQL_ERRORS)


class SqlWatch:
    """`changed(what)` is called when something turned that others wait for; `gone(what)` when a walreceiver or a
    walsender has died, before any probe could know."""

    def __init__(self, probe: SqlProbe, memory: Memory, supervisor: Supervisor, changed: Callable[[str], None]) -> None:
        self._probe = probe
        self._memory = memory
        self._supervisor = supervisor
        self._changed = changed
        self._turn = asyncio.Lock()
        self._regular: SqlFacts | None = None
        self._wake = asyncio.Event()
        self._children = ProcessWatch(self._child_gone)

    async def run(self) -> None:
        """Until cancelled."""
        interval_s = self._memory.node.settings.probe_interval_ms / 1000
        try:
            while True:
                self._wake.clear()
                if self._up:
                    await self.refresh(regular=True)
                else:
                    self.forget()
                try:
                    async with asyncio.timeout(interval_s):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            self._children.close()
            await self._probe.close()

    @property
    def _up(self) -> bool:
        return self._supervisor.postmaster in (Postmaster.RUNNING, Postmaster.STOPPING)

    def wake(self) -> None:
        """Probe now: something happened."""
        self._wake.set()

    def forget(self) -> None:
        """The postmaster is gone."""
        self._memory.sql.forget()
        self._regular = None
        self._children.watch({})
        self._memory.replay_paused_by_probe = False

    async def refresh(self, *, max_age_ms: int = 0, regular: bool = False) -> None:
        """Facts that are at most `max_age_ms` old when this returns, unless the probe fails or nothing accepts."""
        asked_ms = clock_ms()
        async with self._turn:
            if not self._up:
                return
            ended_ms = self._memory.sql.ended_ms
            if ended_ms is not None and not regular and ended_ms - self._memory.sql.took_ms >= asked_ms - max_age_ms:
                return
            await self._probe_once(regular)

    async def _probe_once(self, regular: bool) -> None:
        sql = self._memory.sql
        before = sql.facts
        was_ok = sql.error is None
        began_ms = sql.begin()
        try:
            facts = await self._probe.run(sql.allowed)
        except _PROBE_ERRORS as error:
            sql.error = f"{type(error).__name__}: {error}"
            sql.fault = fault_of(error)
        else:
            sql.error = sql.fault = None
            if not sql.is_outdated(facts):
                self._take(before, facts, regular)
        finally:
            sql.ended_ms = clock_ms()
            sql.took_ms = sql.ended_ms - began_ms
            sql.began_ms = None
        if not self._up:
            self.forget()  # it died under the probe: what the probe said of it is no fault of the next one
        elif was_ok is not (sql.error is None):
            _log.info("agent.sql_probe", ok=sql.error is None, error=sql.error)
            self._changed("sql_probe")
        elif sql.facts is not None and _turned(before, sql.facts):
            self._changed("sql_facts")

    def _take(self, before: SqlFacts | None, facts: SqlFacts, regular: bool) -> None:
        memory = self._memory
        memory.sql.noted(facts)
        if before is None or facts.receive_lsn != before.receive_lsn:
            memory.receive_moved_ms = clock_ms()
        if regular:
            memory.replay_moved = _replay_moved(self._regular, facts)
            self._regular = facts
        watched = {sender.pid: f"walsender {sender.name}" for sender in facts.walsenders}
        if facts.receiver_pid is not None:
            watched[facts.receiver_pid] = "walreceiver"
        self._children.watch(watched)

    def _child_gone(self, pid: int, what: str) -> None:
        """The kernel says so: long before the next probe, and when the primary's host side died, before anybody."""
        facts = self._memory.sql.facts
        if facts is None:
            return
        if what == "walreceiver":
            self._memory.sql.facts = msgspec.structs.replace(facts, receiver=None, receiver_pid=None)
        else:
            left = tuple(sender for sender in facts.walsenders if sender.pid != pid)
            self._memory.sql.facts = msgspec.structs.replace(facts, walsenders=left)
        self._changed("walreceiver_gone" if what == "walreceiver" else "walsender_gone")
        self.wake()


def _replay_moved(before: SqlFacts | None, now: SqlFacts) -> bool:
    """Whether replay goes on: it has moved since the regular probe before, or has reached all that was received then.

    What has arrived since may lawfully still lie before it: a standby that is a heartbeat behind is not stuck.
    """
    if before is None or now.replay_lsn is None or now.replay_lsn != before.replay_lsn:
        return True
    return now.replay_lsn >= (before.receive_lsn or 0)


def _turned(before: SqlFacts | None, now: SqlFacts) -> bool:
    return before is None or _telling(before) != _telling(now)


def _telling(facts: SqlFacts) -> object:
    """What a change of is told at once; LSNs that only move on are not."""
    senders = [(sender.name, sender.pid, sender.state, sender.sync_state) for sender in facts.walsenders]
    slots = [(slot.name, slot.active, slot.wal_status) for slot in facts.slots]
    waiting = facts.commit_waiting_ms is not None and facts.commit_waiting_ms > 200
    names = (facts.in_recovery, facts.timeline, facts.names, facts.replay_paused, waiting)
    return names, senders, slots, facts.receiver
