"""A model node: a PostgreSQL that counts confirmations by name and LSN only, and its agent's rules of acceptance.

WAL is a list of record ids; an LSN is a position in it. Whatever the real thing forgets at a restart is forgotten here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from replication.actions import Action, Fence, Grow, Op, SetNames, op_name
from replication.model import (
    ActionResult,
    Certificate,
    DataDirectory,
    Doing,
    Fault,
    FaultKind,
    Growth,
    NodeReport,
    Place,
    PlacesRead,
    PlannedStop,
    Postmaster,
    Probe,
    ReceiptsFound,
    Receiver,
    Role,
    Slot,
    Stage,
    WalComparison,
    Walsender,
    Witness,
)

ACTION_TTL_MS = 2_000
RESULTS_KEPT = 8


@dataclass
class Running:
    """What a postmaster's life holds; gone when it dies."""

    incarnation: str
    role: Role
    name: str
    upstream: str | None
    stage: Stage | None
    names: tuple[str, ...] = ()
    wanted_names: tuple[str, ...] = ()
    in_recovery: bool = False
    receiver_since: str | None = None
    high_water: int = 0
    """The highest LSN that any listed name has confirmed, in memory until a restart (WalSndCtl->lsn, syncrep.c)."""
    confirmed_ms: int = 0
    """When a listed name has last confirmed something."""
    connected_ms: int = 0
    heard_ms: int = 0
    """When its walreceiver last heard of its primary."""
    heard_from_ms: dict[str, int] = field(default_factory=dict)
    """When its walsenders last heard of their standby."""
    senders: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Connected walsenders: name to (number of the connection, flush LSN)."""
    waiting: list[tuple[int, int, int]] = field(default_factory=list)
    """Commits in SyncRep: (record id, LSN, since when)."""


@dataclass
class ModelNode:
    """One node with its disk, its postmaster (or none) and its agent. `broken`: rules of the agent that are left out."""

    name: str
    broken: frozenset[str] = frozenset()
    boot: int = 1
    is_agent_up: bool = True
    agent_frozen_until_ms: int = 0
    clock_ms: int = 0
    term: int = 0
    revision: int = 0
    refused_revision: int = 0
    """The highest that this run of the agent has refused for what it found."""
    has_data: bool = False
    wal: list[int] = field(default_factory=list)
    timeline: int = 1
    process: Running | None = None
    frozen_until_ms: int = 0
    last_incarnation: str | None = None
    starts: int = 0
    connections: int = 0
    was_seen_to_die: bool = False
    is_fenced: bool = False
    is_fence_held: bool = False
    planned_stop: PlannedStop | None = None
    schema_applied: bool = False
    slots: set[str] = field(default_factory=set)
    checkpointer_hangs_until_ms: int = 0
    has_fault: bool = False
    fault_since_ms: int = 0
    lie_found_ms: int | None = None
    """A visibility map of it lies, and from then on its agent says so."""
    is_tainted: bool = False
    """It failed, another was promoted past it, and no rebuild and certificate have followed: for the checks only."""
    is_rebuilt: bool = False
    doing: tuple[Action, int] | None = None
    results: list[ActionResult] = field(default_factory=list)
    growth: Growth | None = None
    comparison: WalComparison | None = None
    certificate: Certificate | None = None
    places_read: PlacesRead | None = None
    receipts_found: ReceiptsFound | None = None
    observed_lsn: int = 0
    """How far its agent saw its WAL flushed, at most a second ago."""
    observed_timeline: int = 0
    promoted_lsn: int | None = None
    lease_until_clock_ms: int = 0
    beat_began_ms: int | None = None
    """The heartbeat that waits, since when."""
    beat_returned_ms: int | None = None
    """When the last heartbeat that came back was begun."""
    agent_stalled_ms: int = 0
    """When its agent was last seen not to run."""

    def refuses(self, action: Action) -> bool:
        """The acceptance rules of `replication.actions.Action` and `replication.acceptance`."""
        if self._is_not_for_it(action) or ("revision" not in self.broken and action.revision <= self.refused_revision):
            return True
        if isinstance(action.op, Fence) or not self._cannot_now(action):
            return False
        self.refused_revision = max(self.refused_revision, action.revision)
        return True

    def _is_not_for_it(self, action: Action) -> bool:
        if action.term < self.term or (action.revision <= self.revision and "revision" not in self.broken):
            return True
        age_ms = self.clock_ms - action.observed_clock_ms
        is_late = action.boot_id != str(self.boot) or age_ms > ACTION_TTL_MS
        return is_late and "time" not in self.broken

    def _cannot_now(self, action: Action) -> bool:
        wanted = getattr(action.op, "incarnation", None)
        if wanted is not None and wanted != self.last_incarnation and "time" not in self.broken:
            return True
        return self.doing is not None or (self.is_fence_held and op_name(action.op).startswith("start_"))

    def begin(self, action: Action, finish_ms: int) -> None:
        """Accepted: term, revision and intention are persisted before anything runs."""
        self.term, self.revision = action.term, action.revision
        self.doing = (action, finish_ms)
        if self.process is not None and not self.process.in_recovery:
            if isinstance(action.op, SetNames):
                self.process.wanted_names = action.op.names
            elif isinstance(action.op, Grow):
                self.process.wanted_names = (action.op.name,)

    def finish(self, action: Action, *, ok: bool, sentence: str = "", reason: str | None = None) -> None:
        """Remember how an action ended."""
        self.doing = None
        self.results = [
            *self.results[1 - RESULTS_KEPT :],
            ActionResult(action.revision, op_name(action.op), ok, sentence, reason, self.clock_ms),
        ]

    def start(self, role: Role, name: str, upstream: str | None, names: tuple[str, ...]) -> None:
        """A new postmaster: nothing of the one before is known to it."""
        self.starts += 1
        self.last_incarnation = f"{self.name}{self.starts}"
        stage = Stage.CLOSED if role is Role.PRIMARY else None
        self.process = Running(self.last_incarnation, role, name, upstream, stage, names, names, role is Role.STANDBY)
        self.is_fenced, self.was_seen_to_die, self.planned_stop, self.frozen_until_ms = False, False, None, 0

    def die(self) -> None:
        """SIGKILL of every process."""
        if self.process is not None:
            self.process, self.was_seen_to_die, self.frozen_until_ms = None, True, 0

    def lose_tail(self, records: int) -> None:
        """The disk forgets the end of WAL; PostgreSQL dies with it, if it runs."""
        self.die()
        del self.wal[max(1, len(self.wal) - records) :]
        if self.planned_stop is not None:
            self.planned_stop = PlannedStop(self.planned_stop.timeline, self.planned_stop.checkpoint_lsn, False)

    def restart_agent(self) -> None:
        """The agent dies and comes back: a new boot, persisted term, revision and results, no action under way."""
        if self.doing is not None:
            self.finish(self.doing[0], ok=False, sentence="the agent died", reason="interrupted")
        self.boot += 1
        self.is_agent_up = True
        self.agent_frozen_until_ms = 0
        self.clock_ms = self.lease_until_clock_ms = self.refused_revision = 0
        self.beat_began_ms = self.beat_returned_ms = None

    def report(self, witness: Witness | None, now_ms: int) -> NodeReport:
        """What the agent says now."""
        process = self.process
        dead = Postmaster.EXITED if self.was_seen_to_die else Postmaster.ABSENT
        frozen = now_ms < self.frozen_until_ms
        sql = Probe(not frozen, 10, 1, fault=FaultKind.UNRESPONSIVE if frozen else None)
        common = {
            "node": self.name,
            "boot_id": str(self.boot),
            "seq": self.clock_ms,
            "clock_ms": self.clock_ms,
            "term": self.term,
            "revision": self.revision,
            "data": DataDirectory.PRESENT if self.has_data else DataDirectory.EMPTY,
            "system_identifier": "1" if self.has_data else None,
            "postmaster": Postmaster.RUNNING if process else dead,
            "incarnation": self.last_incarnation,
            "fenced": self.is_fenced,
            "fence_held": self.is_fence_held,
            "planned_stop": self.planned_stop,
            "disk": Probe(True, 10, 1),
            "sql": sql if process else None,
            "witness": witness,
            "faults": self._faults(now_ms),
            "doing": self._doing(),
            "results": tuple(self.results),
            "growth": self.growth,
            "comparison": self.comparison,
            "certificate": self.certificate,
            "places_read": self.places_read,
            "receipts_found": self.receipts_found,
            "last_observed_flush_lsn": self.observed_lsn,
            "last_observed_timeline": self.observed_timeline,
            "schema_applied": self.schema_applied,
            "slots": tuple(Slot(slot, False, "reserved") for slot in sorted(self.slots)),
        }
        if process is None:
            return NodeReport(**common)  # type: ignore[arg-type]
        return NodeReport(**common, **self._of_process(process, now_ms))  # type: ignore[arg-type]

    def _faults(self, now_ms: int) -> tuple[Fault, ...]:
        lies = self.lie_found_ms is not None and now_ms >= self.lie_found_ms
        return (*((_FAULT,) if self.has_fault else ()), *((_LIE,) if lies else ()))

    def _doing(self) -> Doing | None:
        if self.doing is None:
            return None
        return Doing(self.doing[0].revision, op_name(self.doing[0].op), 0)

    def _of_process(self, process: Running, now_ms: int) -> dict[str, object]:
        end = len(self.wal)
        receiver = None
        if process.receiver_since is not None:
            receiver = Receiver("streaming", process.name, 1, self.timeline)
        senders = tuple(
            Walsender(name, number, str(number), "streaming", "sync", flush, flush)
            for name, (number, flush) in sorted(process.senders.items())
        )
        is_open = process.role is Role.PRIMARY and process.stage is Stage.OPEN
        return {
            "lease_expires_in_ms": self.lease_until_clock_ms - self.clock_ms if is_open else None,
            "configured_role": process.role,
            "configured_name": process.name,
            "stage": process.stage,
            "in_recovery": process.in_recovery,
            "timeline": self.timeline,
            "insert_lsn": None if process.in_recovery else end,
            "flush_lsn": end,
            "receive_lsn": end if process.in_recovery else None,
            "replay_lsn": end,
            "names": process.names,
            "walsenders": senders,
            "commit_waiting_ms": now_ms - process.waiting[0][2] if process.waiting else None,
            "receiver": receiver,
            "promoted_lsn": self.promoted_lsn,
            "redo_lsn": end,
        }


_FAULT = Fault(FaultKind.PAGE_CORRUPT, 1.0, "", "a page of the model is corrupt", (), (Place("base/1/1", block=0),))
_LIE = Fault(FaultKind.VM_CORRUPT, 1.0, "", "a map of the model lies", (), (Place("base/1/2", block=0),))


def duration_ms(op: Op) -> int:
    """How long an operation takes in the model, before jitter."""
    slow = {"rebuild": 1_500, "initdb": 500, "start_primary": 200, "start_standby": 200, "grow": 100, "certify": 200}
    return slow.get(op_name(op), 20)
