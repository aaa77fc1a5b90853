"""What the agent knows at this moment, and the report that it makes of it: answered from memory, never from a disk."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from replication.crowding import Crowding
from replication.log_faults import LogFaults
from replication.model import (
    CompareStatus,
    DataDirectory,
    Doing,
    Evidence,
    Fault,
    FaultKind,
    LedgerStatus,
    NodeReport,
    Postmaster,
    Probe,
    RedoFailure,
    Role,
    ScrubStatus,
    Witness,
)
from replication.node import Node
from replication.probes.data_stall import DATA_STALLED_MS, DataStall
from replication.probes.disk import DiskProbe
from replication.probes.sql import SqlFacts
from replication.probes.wal_stall import WAL_STALLED_MS, WalStall
from replication.proc import is_running, sleeps
from replication.scrub.pace import Pace
from replication.scrub.pause import Pause
from replication.state_dir import AgentState, StateDir
from replication.supervisor import Supervisor
from replication.wall_clock import wall_now

_FAULT_WORDS = {
    FaultKind.UNRESPONSIVE: "PostgreSQL does not answer its agent",
    FaultKind.STORAGE_STALLED: "the disk does not answer",
    FaultKind.STORAGE_ERROR: "the disk reports an error",
    FaultKind.STORAGE_FULL: "the disk is full",
    FaultKind.READ_ONLY: "the disk has become read-only",
}


def clock_ms() -> int:
    """This machine's monotonic clock in milliseconds: what `observed_clock_ms` is compared with."""
    return time.monotonic_ns() // 1_000_000


class SqlMemory:
    """The last SQL probe: what it said, when, and how long the one under way takes."""

    def __init__(self, crowding: Crowding | None = None) -> None:
        self.facts: SqlFacts | None = None
        self.began_ms: int | None = None
        self._crowding = crowding or Crowding()
        self._mark = self._crowding.mark()
        self.ended_ms: int | None = None
        self.took_ms = 0
        self.error: str | None = None
        self.fault: FaultKind | None = None
        self.highest_redo = 0
        """Where the latest checkpoint began that this start of PostgreSQL has told of."""
        self.wal = WalStall()
        self.data = DataStall(sleeps)
        self._promoted_ms: int | None = None

    def begin(self) -> int:
        """A probe begins: when (clock_ms)."""
        self._mark = self._crowding.mark()
        self.began_ms = clock_ms()
        return self.began_ms

    def allowed(self) -> int:
        """How many times its deadline the probe that is under way may take, by how crowded the processors were since."""
        return self._crowding.times(self._mark)

    def noted(self, facts: SqlFacts) -> None:
        """A probe has ended."""
        self.facts = facts
        self.highest_redo = max(self.highest_redo, facts.redo_lsn or 0)
        flushed = facts.receive_lsn if facts.in_recovery else facts.flush_lsn
        self.wal.noted(clock_ms(), frozenset(filter(is_running, facts.wal_waits)), flushed)
        self.data.noted(clock_ms(), facts.data_waits)

    def forget(self) -> None:
        """No postmaster: nothing that it once said holds any more."""
        self.facts = self.ended_ms = self.error = self.fault = self._promoted_ms = None
        self.highest_redo = 0
        self.wal = WalStall()
        self.data = DataStall(sleeps)

    def promoted(self, timeline: int) -> None:
        """The promotion itself has seen the end of recovery: told without waiting for another probe."""
        self._promoted_ms = clock_ms()
        if self.facts is not None:
            self.facts = msgspec.structs.replace(
                self.facts,
                in_recovery=False,
                timeline=timeline,
                receive_lsn=None,
                replay_lsn=None,
                receiver=None,
                receiver_pid=None,
            )

    def is_outdated(self, facts: SqlFacts) -> bool:
        """Whether the probe that has just ended looked before the promotion that is known of."""
        began_ms = self.began_ms or 0
        return facts.in_recovery and self._promoted_ms is not None and began_ms <= self._promoted_ms

    def report(self, now_ms: int, deadline_ms: int) -> Probe | None:
        """The last result; over the deadline the node counts as unresponsive before the probe has returned."""
        running_ms = None if self.began_ms is None else now_ms - self.began_ms
        over = running_ms is not None and running_ms > deadline_ms and running_ms > deadline_ms * self.allowed()
        if self.ended_ms is None and not over:
            return None
        return Probe(
            ok=self.error is None and not over,
            age_ms=0 if self.ended_ms is None else now_ms - self.ended_ms,
            took_ms=self.took_ms,
            running_ms=running_ms,
            error=self.error,
            fault=FaultKind.UNRESPONSIVE if over else self.fault,
        )


class Memory:
    """Mutable, and only touched on the event loop."""

    def __init__(self, node: Node, disk: DiskProbe) -> None:
        self.node = node
        self.boot_id = uuid.uuid4().hex
        self.seq = 0
        self.data = DataDirectory.EMPTY
        self.system_identifier: str | None = None
        self.sql = SqlMemory()
        self.disk = disk
        self.witness: Callable[[], Witness | None] = lambda: None
        self.lease_expires_in_ms: Callable[[], int | None] = lambda: None
        self.scrub_status: Callable[[], ScrubStatus | None] = lambda: None
        self.compare_status: Callable[[], CompareStatus | None] = lambda: None
        self.ledger_status: Callable[[], LedgerStatus | None] = lambda: None
        self.doing: Doing | None = None
        self.scrub_pause = Pause()
        self.scrub_pace = Pace()
        self.doing_since_ms = 0
        self.replay_paused_by_probe = False
        self.replay_moved = True
        self.receive_moved_ms = clock_ms()
        self.log_faults = LogFaults(node.name)
        self.upstream_faults = LogFaults(node.name)
        self.redo_failure: RedoFailure | None = None
        self.looked_back = asyncio.Event()
        """Not while the files are looked at for what a process died of (scrub/post_mortem); a rebuild waits for that."""
        self.looked_back.set()
        self._fault_since: dict[FaultKind, str] = {}

    def progress(self, fraction: float) -> None:
        """How far the action under way has come, 0..1."""
        if self.doing is not None:
            self.doing = Doing(self.doing.revision, self.doing.op, 0, fraction)

    def of_upstream(self, facts: SqlFacts | None) -> tuple[Fault, ...]:
        """What a standby has found of its primary; once it is none any more, nothing."""
        if facts is not None and not facts.in_recovery:
            self.upstream_faults.clear()
        return self.upstream_faults.faults()

    def faults(self, sql: Probe | None, disk: Probe | None) -> tuple[Fault, ...]:
        """The faults that this agent's own probes show now, each since it first was seen, and what the log has shown."""
        at = wall_now()
        found: list[Fault] = []
        for name, probe in (("sql", sql), ("disk", disk)):
            if probe is None or probe.fault is None:
                continue
            value = probe.error or f"running for {probe.running_ms} ms"
            evidence = Evidence(what=f"{name} probe", by=f"agent {self.node.name}", at=at, value=value)
            since = self._fault_since.setdefault(probe.fault, at)
            sentence = f"node {self.node.name}: {_FAULT_WORDS.get(probe.fault, probe.fault.value)} ({value})"
            found.append(Fault(probe.fault, 0.9, since, sentence, (evidence,)))
        if all(fault.kind is not FaultKind.STORAGE_STALLED for fault in found):
            found += self._stalled(at)
        for kind in set(self._fault_since) - {fault.kind for fault in found}:
            del self._fault_since[kind]
        return (*found, *self.log_faults.faults())

    def _stalled(self, at: str) -> list[Fault]:
        """What PostgreSQL's processes wait for on a disk that answers the probe."""
        sql, name = self.sql, self.node.name
        if sql.wal.stalled_ms >= WAL_STALLED_MS:
            value = f"the same process waits for {sql.wal.stalled_ms} ms, and nothing was flushed meanwhile"
            what, sentence = "wait events of WAL", f"node {name}: its disk takes no WAL ({value})"
        elif sql.data.stalled_ms >= DATA_STALLED_MS:
            value = f"a process waits in {sql.data.event} for {sql.data.stalled_ms} ms and was not woken meanwhile"
            what, sentence = "wait events of data files", f"node {name}: its disk does not finish a block ({value})"
        else:
            return []
        evidence = Evidence(what=what, by=f"agent {name}", at=at, value=value)
        since = self._fault_since.setdefault(FaultKind.STORAGE_STALLED, at)
        return [Fault(FaultKind.STORAGE_STALLED, 0.9, since, sentence, (evidence,))]


def build_report(memory: Memory, store: StateDir, supervisor: Supervisor) -> NodeReport:
    """The whole report, as of now."""
    now_ms = clock_ms()
    state, settings = store.state, memory.node.settings
    memory.seq += 1
    sql = memory.sql.report(now_ms, settings.probe_deadline_ms) if supervisor.running else None
    disk = memory.disk.report()
    facts = memory.sql.facts if supervisor.running else None
    space = memory.disk.result
    report = NodeReport(
        node=settings.name,
        boot_id=memory.boot_id,
        seq=memory.seq,
        clock_ms=now_ms,
        data=memory.data,
        version=memory.node.installation.version_text,
        system_identifier=memory.system_identifier,
        postmaster=supervisor.postmaster,
        incarnation=supervisor.incarnation,
        exit_sentence=supervisor.exit_sentence,
        sql=sql,
        disk=disk,
        witness=memory.witness(),
        lease_expires_in_ms=memory.lease_expires_in_ms(),
        faults=memory.faults(sql, disk),
        scrub=memory.scrub_status(),
        ledger=memory.ledger_status(),
        comparison_of_pages=memory.compare_status(),
        redo_failure=memory.redo_failure,
        upstream_faults=memory.of_upstream(facts),
        doing=_doing(memory, now_ms),
        replay_paused_by_probe=memory.replay_paused_by_probe,
        replay_moved=memory.replay_moved,
        bytes_free=space.bytes_free if space is not None else None,
        bytes_total=space.bytes_total if space is not None else None,
        **_from_state(state, supervisor),
        **_from_sql(facts),
    )
    return report


def _doing(memory: Memory, now_ms: int) -> Doing | None:
    doing = memory.doing
    if doing is None:
        return None
    return Doing(doing.revision, doing.op, now_ms - memory.doing_since_ms, doing.progress)


def _from_state(state: AgentState, supervisor: Supervisor) -> dict[str, Any]:
    primary = state.configured_role is Role.PRIMARY
    up = supervisor.postmaster in (Postmaster.RUNNING, Postmaster.STOPPING)
    return {
        "term": state.term,
        "revision": state.revision,
        "configured_role": state.configured_role,
        "configured_name": state.configured_name,
        "stage": state.stage if primary and up else None,
        "fenced": state.fenced,
        "fence_held": state.fence_held,
        "names_revision": state.names_revision,
        "promoted_lsn": state.promoted_lsn,
        "last_observed_flush_lsn": state.last_observed_flush_lsn,
        "last_observed_timeline": state.last_observed_timeline,
        "planned_stop": state.planned_stop,
        "results": state.results,
        "growth": state.growth,
        "comparison": state.comparison,
        "receipts_found": state.receipts_found,
        "certificate": state.certificate,
        "places_read": state.places_read,
        "rebuilt_revision": state.rebuilt_revision,
        "schema_applied": state.schema_applied,
    }


def _from_sql(facts: SqlFacts | None) -> dict[str, Any]:
    if facts is None:
        return {}
    return {
        "in_recovery": facts.in_recovery,
        "timeline": facts.timeline,
        "insert_lsn": facts.insert_lsn,
        "flush_lsn": facts.flush_lsn,
        "receive_lsn": facts.receive_lsn,
        "replay_lsn": facts.replay_lsn,
        "replay_paused": facts.replay_paused,
        "names": facts.names,
        "walsenders": facts.walsenders,
        "commit_waiting_ms": facts.commit_waiting_ms,
        "receiver": facts.receiver,
        "slots": facts.slots,
        "commit_overrides": facts.commit_overrides,
        "redo_lsn": facts.redo_lsn,
    }
