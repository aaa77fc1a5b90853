"""The values of the core: what it is told (`Observation`), what it answers (`Decision`), what it keeps (`State`).

Time is a value: `Observation.now_ms` is the cluster's own clock, which never falls and does not advance while no
controller runs. Everything here is JSON through msgspec, so every incident can be replayed from the journal.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from replication.actions import Action, Op
from replication.model import (
    Cause,
    Certificate,
    Evidence,
    Fault,
    FaultKind,
    NodeReport,
    Place,
    ReceiptCheck,
    RedoFailure,
    ServerReport,
)


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every limit and time-out of the core in one place; milliseconds unless the name says otherwise."""

    probe_interval_ms: int = 250
    probe_deadline_ms: int = 750
    action_ttl_ms: int = 2_000
    lease_ttl_ms: int = 3_000
    standby_lost_ms: int = 1_000
    cold_start_ms: int = 30_000
    grow_lag_bytes_max: int = 16 * 1024 * 1024
    sync_wait_ms: int = 1_000
    stop_deadline_ms: int = 5_000
    drain_deadline_ms: int = 5_000
    checkpoint_deadline_ms: int = 120_000
    promote_deadline_ms: int = 30_000
    replay_backlog_bytes_max: int = 1024 * 1024 * 1024
    places_deadline_ms: int = 2_000
    """How long the candidate may read what is damaged on the primary before it is promoted."""
    places_fresh_ms: int = 10_000
    """How long that reading counts."""
    heartbeat_ms: int = 250
    retry_ms: int = 1_000
    retry_ms_max: int = 30_000
    peer_alarm_ms: int = 5_000
    """How long a stopped primary waits for its silent, eligible peer before an alarm says so."""
    stream_deadline_ms: int = 30_000
    """A standby that runs without streaming for so long is started anew; after the second time it is rebuilt."""
    start_failures_max: int = 5
    """A standby that is not eligible and whose start fails so often is rebuilt."""
    alarm_only: tuple[FaultKind, ...] = ()
    """Faults of a primary for which nothing is promoted: a person decides."""
    redo_blame_ms: int = 4_000
    """How long a standby whose recovery broke off is left alone until it is known whose page is wrong."""
    self_test_mb: int = 16
    """How much is written to the disk of a quarantined node, and read back, before it is rebuilt."""
    copy_when_alone: bool = True
    """A primary that carries damage which PostgreSQL reads without an error, and is all that is left, may be copied once all that
    was acknowledged is on it."""
    observe_only: bool = False


class Silence(StrEnum):
    """How an agent failed to answer."""

    REFUSED = "refused"
    TIMEOUT = "timeout"
    ERROR = "error"


class SeenServer(msgspec.Struct, frozen=True):
    """A server's last report and its age when the observation was made."""

    report: ServerReport
    age_ms: int


class CommandKind(StrEnum):
    SWITCHOVER = "switchover"
    FAILOVER = "failover"
    FENCE = "fence"
    UNFENCE = "unfence"
    REBUILD = "rebuild"
    PAUSE = "pause"
    RESUME = "resume"
    CLOSE_INCIDENT = "close_incident"


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's wish; answered in the same decision by a `Reply` with its id."""

    id: str
    kind: CommandKind
    expected_term: int
    node: str | None = None
    """The node meant, or for switchover and failover the candidate."""
    reason: str = ""
    accept_data_loss: bool = False
    primary_is_dead: bool = False
    accept_damage: bool = False
    for_ms: int | None = None
    incident: str | None = None
    """The incident to close; `reason` is the note."""


class Reply(msgspec.Struct, frozen=True):
    """`status`: HTTP's 202 (accepted), 409 (wrong term, or not in this state), 422 (makes no sense)."""

    id: str
    status: int
    sentence: str


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """All that the controller saw in one round."""

    now_ms: int
    at: str
    """Wall clock, ISO 8601 with Z: for records only, never compared."""
    nodes: dict[str, NodeReport | None]
    silence: dict[str, Silence] = {}
    """For each node whose report is None: how it failed to answer."""
    servers: tuple[SeenServer, ...] = ()
    commands: tuple[Command, ...] = ()
    """At most one is answered in a decision; one without a reply is handed over again."""
    refused: dict[str, int] = {}
    """For each node the revision of an action that its agent has just refused (409): it will never run."""
    late: bool = False
    """The round itself began late or took too long: nothing may be concluded from silence or ages."""


class RuledOut(msgspec.Struct, frozen=True):
    cause: Cause
    by: str


class Verdict(msgspec.Struct, frozen=True):
    """A named cause with its evidence and what was ruled out by which measurement (DESIGN section 5)."""

    cause: Cause
    kind: FaultKind
    node: str
    confidence: float
    sentence: str
    evidence: tuple[Evidence, ...] = ()
    ruled_out: tuple[RuledOut, ...] = ()


class IncidentEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an incident's timeline. `event` is a dotted name; `opened` and `closed` begin and end the record."""

    incident: str
    at: str
    now_ms: int
    event: str
    sentence: str
    node: str | None = None
    verdict: Verdict | None = None
    revision: int | None = None
    """Of the action that this line tells of (`action.promote`)."""
    receipts: ReceiptCheck | None = None
    """What the servers found, in the line `receipts.checked`."""


class Alarm(msgspec.Struct, frozen=True):
    """Something that a person should know; it stays as long as its cause."""

    name: str
    since: str
    sentence: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one observation. `kind` is a row of the transition table (failover/core/transitions.py), `sentence`
    says why in words. The state is written before any action is sent."""

    kind: str
    sentence: str
    actions: tuple[Action, ...] = ()
    replies: tuple[Reply, ...] = ()
    incident_events: tuple[IncidentEvent, ...] = ()


class Pending(msgspec.Struct, frozen=True):
    """An action that was journalled: settled when the agent's report says that it ended, or that it can no longer be
    accepted (another boot, or a report later than the answered one by more than its time to live, not accepted)."""

    revision: int
    op: Op
    boot_id: str
    observed_clock_ms: int
    since_ms: int


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the store keeps of one node."""

    name: str
    generation: int = 0
    """Number of the last name given to it as a standby: `b_g7`."""
    eligible: bool = False
    eligible_reason: str = "never grown"
    eligible_incarnation: str | None = None
    """The incarnation of the standby's postmaster that the eligibility was proved for; another one: unverified."""
    eligible_primary_incarnation: str | None = None
    needs_rebuild: bool = False
    rebuild_reason: str = ""
    quarantined: bool = False
    fence_held: bool = False
    certificate: Certificate | None = None
    faults: tuple[Fault, ...] = ()
    places_read: tuple[Place, ...] = ()
    """As a candidate: what is damaged on the primary and was found clean here, at `places_read_ms`."""
    places_read_ms: int = 0
    redo_failure: RedoFailure | None = None
    """As a standby: its recovery broke off, since `redo_failed_ms`; until it was rebuilt, or promoted before that record."""
    redo_failed_ms: int = 0
    reindexed: tuple[Place, ...] = ()
    """As a primary that was left alone: places over which the indexes were made anew."""
    maps_due: tuple[Place, ...] = ()
    """As a primary: the visibility maps there are to be thrown away. They were wrong on the one before it, and WAL copies them."""
    confirmed_flush_lsn: int | None = None
    """Highest flush LSN that it was seen to confirm, on `confirmed_timeline`."""
    confirmed_timeline: int | None = None
    started_generation: int = 0
    """The last generation under which it was started; a name is never used for a second start."""
    grown_walsender: str | None = None
    """`pid/backend_start` of the walsender that the growth was proved for."""
    lost_since_ms: int | None = None
    flush_seen_lsn: int | None = None
    flush_seen_ms: int | None = None
    needs_certificate: bool = False
    may_open_alone: bool = False
    """As primary: the lone rule held (or an operator decided) when its last closed start was journalled."""
    opened_by_operator: bool = False
    """An operator accepted what this primary may have lost; it counts until it is open."""
    rebuild_accepts_damage: bool = False
    """An operator accepted that the source of this node's rebuild carries an integrity fault."""
    unstreamed_since_ms: int | None = None
    unstreamed_starts: int = 0
    waits_for_peer_since_ms: int | None = None
    """As a stopped primary: since when its eligible peer does not answer."""
    receipts_revision: int | None = None
    """Revision of the last CheckReceipts that ended; only its result counts."""
    receipts_asked: bool = False
    """A CheckReceipts was decided for the last closed start; when another is due, the first did not come to an end."""
    end_lsn: int | None = None
    """As primary: where its WAL ended, read before its last closed start."""
    end_short: str | None = None
    """As primary: why that end shows that something is missing, judged before that start."""
    started_compared: bool = False
    """As primary: its WAL was compared with its eligible peer's before its last closed start."""
    compared_revision: int | None = None
    """Revision of the last CompareWal that ended; only its result counts."""
    pending: Pending | None = None
    retry_after_ms: int = 0
    failures: int = 0


class TransitionKind(StrEnum):
    FAILOVER = "failover"
    SWITCHOVER = "switchover"


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """A failover or switchover under way; `step` is a row of the transition table."""

    kind: TransitionKind
    step: str
    candidate: str
    former: str
    began_ms: int
    step_began_ms: int
    incident: str | None = None
    candidate_incarnation: str | None = None
    candidate_wal_lsn: int = 0
    """How far the candidate's WAL reached when it was chosen: after a restart it must still reach as far."""
    accepts_loss: bool = False
    """An operator said so: what a restarted candidate lacks is accepted."""


class TermRecord(msgspec.Struct, frozen=True):
    """The history that is journalled at every promotion."""

    term: int
    primary: str
    timeline: int | None
    fork_lsn: int | None


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster as the store holds it: one value, replaced as a whole, with a revision that never falls."""

    revision: int = 0
    term: int = 0
    now_ms: int = 0
    system_identifier: str | None = None
    schema_applied: bool = False
    primary: str | None = None
    nodes: dict[str, NodeRecord] = {}
    history: tuple[TermRecord, ...] = ()
    transition: Transition | None = None
    paused_until_ms: int | None = None
    pause_reason: str = ""
    incident: str | None = None
    incident_verdict: Verdict | None = None
    started_ms: int = 0
    """When the last closed start of a primary was decided."""
    incident_receipts: ReceiptCheck | None = None
    """What the servers found when they compared their receipts while the incident was open, all of them together."""
    incident_since_ms: int = 0
    incident_receipts_are_new: bool = False
    """That comparison began after the incident."""
    alarms: tuple[Alarm, ...] = ()


def initial_state(nodes: tuple[str, ...]) -> State:
    """The state of a store that holds nothing yet: the nodes are known by name, and nothing else."""
    return State(nodes={name: NodeRecord(name=name) for name in sorted(nodes)})
