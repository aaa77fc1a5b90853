"""The words that agents, controller and drills share: pure values, no I/O.

Every type here crosses a process boundary as JSON through msgspec. LSNs are plain integers inside Locum and
`X/Y` text only outside (`format_lsn`, `parse_lsn`); durations and clocks are integers in milliseconds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NewType

import msgspec

Lsn = NewType("Lsn", int)
NodeName = NewType("NodeName", str)
Term = NewType("Term", int)
Revision = NewType("Revision", int)

WAL_SEGMENT_MB = 1
WAL_SEGMENT_BYTES = WAL_SEGMENT_MB * 1024 * 1024
"""A promotion copies the segment in which the old timeline ends, whole and with an fsync (xlog.c, XLogInitNewTimeline):
with PostgreSQL's default of 16 MB that is half the time of a promotion, and 1 MB costs no throughput."""


def parse_lsn(text: str) -> Lsn:
    """`'0/5000060'` as an integer. Raises ValueError on anything else (src/backend/utils/adt/pg_lsn.c)."""
    high, slash, low = text.partition("/")
    if not slash or not 0 < len(high) <= 8 or not 0 < len(low) <= 8:
        raise ValueError(f"not an LSN: {text!r}; expected two hexadecimal numbers such as 0/5000060")
    return Lsn((int(high, 16) << 32) | int(low, 16))


def format_lsn(lsn: int) -> str:
    """PostgreSQL's own spelling of an LSN: `0/5000060`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


class Role(StrEnum):
    PRIMARY = "primary"
    STANDBY = "standby"


class Stage(StrEnum):
    """How far a primary's start has come: who may connect (DESIGN section 4, starting a primary)."""

    CLOSED = "closed"
    REPLICATING = "replicating"
    OPEN = "open"


class Postmaster(StrEnum):
    """What the agent knows of its child. `absent`: none runs and none was seen to die since the agent began."""

    ABSENT = "absent"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    EXITED = "exited"


class DataDirectory(StrEnum):
    EMPTY = "empty"
    PRESENT = "present"
    HALF_BUILT = "half_built"
    FOREIGN = "foreign"
    """Of another PostgreSQL version, or not a data directory at all: never touched."""


class Cause(StrEnum):
    PROCESS = "process"
    NETWORK = "network"
    STORAGE = "storage"
    CORRUPTION = "corruption"
    OVERLOAD = "overload"


class FaultKind(StrEnum):
    PROCESS_DEAD = "process_dead"
    UNRESPONSIVE = "unresponsive"
    REDO_FAILED = "redo_failed"
    UNREACHABLE = "unreachable"
    STORAGE_ERROR = "storage_error"
    STORAGE_STALLED = "storage_stalled"
    STORAGE_FULL = "storage_full"
    READ_ONLY = "read_only"
    OVERLOAD = "overload"
    PAGE_CORRUPT = "page_corrupt"
    INDEX_CORRUPT = "index_corrupt"
    WAL_LOST = "wal_lost"
    WAL_CORRUPT = "wal_corrupt"
    CONTROL_CORRUPT = "control_corrupt"
    DIVERGED = "diverged"
    LOST_WRITE = "lost_write"
    MISDIRECTED_WRITE = "misdirected_write"
    STALE_PAGE = "stale_page"
    VM_CORRUPT = "vm_corrupt"
    ROW_MISSING = "row_missing"
    SEAL_MISMATCH = "seal_mismatch"

    @property
    def cause(self) -> Cause:
        """The cause that an alert names (DESIGN section 5, verdict)."""
        return _CAUSES.get(self, Cause.CORRUPTION)


_CAUSES = {
    FaultKind.PROCESS_DEAD: Cause.PROCESS,
    FaultKind.UNRESPONSIVE: Cause.PROCESS,
    FaultKind.REDO_FAILED: Cause.PROCESS,
    FaultKind.UNREACHABLE: Cause.NETWORK,
    FaultKind.STORAGE_ERROR: Cause.STORAGE,
    FaultKind.STORAGE_STALLED: Cause.STORAGE,
    FaultKind.STORAGE_FULL: Cause.STORAGE,
    FaultKind.READ_ONLY: Cause.STORAGE,
    FaultKind.OVERLOAD: Cause.OVERLOAD,
}


PROOF_CONFIDENCE_MIN = 0.7


class Evidence(msgspec.Struct, frozen=True):
    """One measurement: what was measured, by whom, when (wall clock, ISO 8601), and the raw value."""

    what: str
    by: str
    at: str
    value: str


class Place(msgspec.Struct, frozen=True):
    """Where on a disk an error lies, as PostgreSQL names it.

    `path`: the relation's main file below the data directory, without a segment number (`base/5/16397`), or another file
    there (`pg_xact/0000`). `relation`: an index or table that an error names instead. `block`: None when it is not said.
    """

    path: str | None = None
    relation: str | None = None
    block: int | None = None

    def __str__(self) -> str:
        where = self.path if self.path is not None else str(self.relation)
        return where if self.block is None else f"block {self.block} of {where}"


class Fault(msgspec.Struct, frozen=True):
    """A cause that somebody saw. `confidence` lies in 0..1; `since` is a wall-clock instant, ISO 8601."""

    kind: FaultKind
    confidence: float
    since: str
    sentence: str
    evidence: tuple[Evidence, ...] = ()
    places: tuple[Place, ...] = ()
    """What is damaged, as far as it was named; the same places are read on a node before it is promoted instead."""

    @property
    def is_proof(self) -> bool:
        """It convicts. A suspicion raises an alarm, and nobody is replaced, rebuilt or passed over for it."""
        return self.confidence >= PROOF_CONFIDENCE_MIN


class PlacesRead(msgspec.Struct, frozen=True):
    """What `ReadPlaces` found on a standby: every page of the named places, from disk and through shared buffers.

    `complete`: the relations were read to their end before the deadline, not only the blocks that were named.
    """

    revision: int
    clean: bool
    sentence: str
    pages: int
    complete: bool
    damaged: tuple[Place, ...] = ()


class Probe(msgspec.Struct, frozen=True):
    """The last result of one probe. `age_ms`: since it ended; `running_ms`: how long the one under way takes."""

    ok: bool
    age_ms: int
    took_ms: int
    running_ms: int | None = None
    error: str | None = None
    fault: FaultKind | None = None


class Walsender(msgspec.Struct, frozen=True):
    """One row of pg_stat_replication. `backend_start` is kept as text: only equality matters."""

    name: str
    pid: int
    backend_start: str
    state: str
    sync_state: str
    flush_lsn: int | None
    replay_lsn: int | None


class Receiver(msgspec.Struct, frozen=True):
    """pg_stat_wal_receiver of a standby; absent when there is no walreceiver."""

    status: str
    name: str
    sender_port: int
    received_tli: int


class Certificate(msgspec.Struct, frozen=True):
    """Proof that a node's pages were checked clean through an LSN (DESIGN section 5)."""

    node: str
    timeline: int
    checked_through_lsn: int
    pages: int
    checks: tuple[str, ...]
    cached: bool
    at: str


class Slot(msgspec.Struct, frozen=True):
    """A physical replication slot; `wal_status` as in pg_replication_slots (reserved, extended, unreserved, lost)."""

    name: str
    active: bool
    wal_status: str | None


class Growth(msgspec.Struct, frozen=True):
    """What the primary's agent proved of one walsender: that commits wait for it (DESIGN section 4, grow).

    `revision` is that of the action that asked. `proved` holds for exactly this walsender, between exactly these two
    incarnations; anything else needs a new proof.
    """

    revision: int
    name: str
    proved: bool
    sentence: str
    primary_incarnation: str
    standby_incarnation: str
    walsender_pid: int | None = None
    walsender_backend_start: str | None = None
    insert_lsn: int | None = None


class Comparison(StrEnum):
    """Outcome of comparing the WAL of a stopped primary with its eligible peer's, before a closed start."""

    EQUAL = "equal"
    ALONE = "alone"
    """Nobody was to be compared with: only the own end of WAL was read, for the lone rule."""
    WAL_LOST = "wal_lost"
    PEER_UNREACHABLE = "peer_unreachable"
    UNREADABLE = "unreadable"
    """The peer could not tell where its WAL ends: neither proof nor refutation; asked again."""


class WalComparison(msgspec.Struct, frozen=True):
    """Result of `CompareWal` with the revision of the action that asked and the peer's incarnation at that time.

    `end_lsn`, `timeline`: where this node's own WAL ends, read before its start.
    """

    revision: int
    outcome: Comparison
    sentence: str
    end_lsn: int | None = None
    timeline: int | None = None
    peer_end_lsn: int | None = None
    peer_incarnation: str | None = None


class ActionResult(msgspec.Struct, frozen=True):
    """The end of one accepted action. `reason` is a word for the core (see `Reason`), `sentence` is for a person."""

    revision: int
    op: str
    ok: bool
    sentence: str
    reason: str | None = None
    ended_clock_ms: int = 0


class Reason(StrEnum):
    """Why an action failed, as far as the core reacts to it."""

    HISTORY_DIFFERS = "history_differs"
    CANNOT_ASK = "cannot_ask"
    AHEAD = "ahead"
    DEADLINE = "deadline"
    NOT_CLOSED = "not_closed"
    INTERRUPTED = "interrupted"
    WRONG_STATE = "wrong_state"
    FAILED = "failed"


class Doing(msgspec.Struct, frozen=True):
    """The action under way; `progress` in 0..1 where it is known."""

    revision: int
    op: str
    running_ms: int
    progress: float | None = None


class Witness(msgspec.Struct, frozen=True):
    """What this node's agent sees of its peer's Postgres: the second witness before a promotion.

    `tcp` is `connected`, `refused`, `timeout` or `error`. `receive_unmoved_ms`: how long this standby's receive LSN has
    stood still; None on a primary.
    """

    peer: str
    tcp: str
    age_ms: int
    receive_unmoved_ms: int | None = None


class ScrubStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The page scrub of a node: passes since its agent began, `progress` 0..1 of the one under way, and the last that ended.

    `cached`: pages were read through the kernel's cache, so that the disk itself was not seen.
    """

    passes: int = 0
    progress: float = 0.0
    pages: int = 0
    bad: int = 0
    cached: bool = False
    ended_at: str | None = None
    took_s: float = 0.0


class LedgerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The WAL ledger of a node (replication/scrub/wal_ledger.py). LSNs as integers.

    `lag_bytes`: WAL that it has not read yet. `since_lsn`: it knows the last record of every block that was changed after it.
    `verified_lsn`: REDO of the newest checkpoint after which all that it wrote was read from the disk. `chain_checked`: False
    where PostgreSQL (15) does not give the images in WAL. `problem`: why it does not read.
    """

    lag_bytes: int
    since_lsn: int
    read_to_lsn: int
    entries: int
    verified_lsn: int
    verified_blocks: int
    chain_checked: bool
    images: int
    problem: str | None = None


class RedoFailure(msgspec.Struct, frozen=True):
    """A standby's recovery broke off at the record that starts at `lsn`, over this block, with these words.

    `asked`: the primary was asked for its own page, or cannot be. `blamed`: whose page is not what WAL says; None: nobody's, as
    far as could be told.
    """

    lsn: int
    path: str | None
    block: int | None
    said: str
    asked: bool = False
    blamed: str | None = None


class CompareStatus(msgspec.Struct, frozen=True):
    """A standby's comparison of its pages with its primary's: passes since its agent began, `progress` 0..1 of the one under
    way, and pages and end of the last that ended."""

    passes: int = 0
    progress: float = 0.0
    pages: int = 0
    ended_at: str | None = None
    took_s: float = 0.0


class PlannedStop(msgspec.Struct, frozen=True):
    """A clean stop that the agent itself performed and remembers off the node's disk."""

    timeline: int
    checkpoint_lsn: int
    intact: bool
    """pg_control still says `shut down` at exactly this checkpoint, and that record is readable."""


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one agent says of its node at one moment. Answered from memory: it never waits for a disk.

    `clock_ms` is the agent's monotonic clock when it answered; an action that answers this report is accepted only
    within `action_ttl_ms` of it, by the boot that gave it. `term` and `revision` are the highest that it has persisted.
    """

    node: str
    boot_id: str
    seq: int
    clock_ms: int
    term: int = 0
    revision: int = 0

    data: DataDirectory = DataDirectory.EMPTY
    version: str | None = None
    system_identifier: str | None = None
    postmaster: Postmaster = Postmaster.ABSENT
    incarnation: str | None = None
    """pid and start time of the postmaster, current or last: `4711:123456`."""
    exit_sentence: str | None = None
    """How the last postmaster ended when nobody had asked for it (`killed by signal 9`)."""
    configured_role: Role | None = None
    configured_name: str | None = None
    """The name (with generation) under which it streams, as written in its settings file."""
    stage: Stage | None = None
    fenced: bool = False
    fence_held: bool = False

    in_recovery: bool | None = None
    timeline: int | None = None
    insert_lsn: int | None = None
    flush_lsn: int | None = None
    receive_lsn: int | None = None
    replay_lsn: int | None = None
    replay_paused: bool = False
    replay_paused_by_probe: bool = False
    replay_moved: bool = True
    """replay_lsn equals the end of the received WAL, or has moved since the observation before."""
    names: tuple[str, ...] = ()
    """synchronous_standby_names in force, as the running primary shows it."""
    names_revision: int = 0
    walsenders: tuple[Walsender, ...] = ()
    commit_waiting_ms: int | None = None
    """Age of the oldest backend in wait event SyncRep; None when none waits."""
    receiver: Receiver | None = None
    slots: tuple[Slot, ...] = ()
    commit_overrides: tuple[str, ...] = ()
    """Entries of pg_db_role_setting that set synchronous_commit (`role app synchronous_commit=off`): whoever connects
    under one is told of commits that the standby does not have. Locum's own connections set it themselves."""
    redo_lsn: int | None = None
    promoted_lsn: int | None = None
    """LSN of the end-of-recovery switch to `timeline`, once promoted by this agent."""
    last_observed_flush_lsn: int | None = None
    last_observed_timeline: int | None = None
    planned_stop: PlannedStop | None = None

    sql: Probe | None = None
    disk: Probe | None = None
    witness: Witness | None = None
    lease_expires_in_ms: int | None = None
    """Of an open primary: how long it may serve without another word of the controller; negative when it has run out."""
    faults: tuple[Fault, ...] = ()

    doing: Doing | None = None
    results: tuple[ActionResult, ...] = ()
    """The last few finished actions, newest last; kept in the agent's state, so they survive its restart."""
    growth: Growth | None = None
    comparison: WalComparison | None = None
    receipts_found: ReceiptsFound | None = None
    certificate: Certificate | None = None
    places_read: PlacesRead | None = None
    scrub: ScrubStatus | None = None
    ledger: LedgerStatus | None = None
    comparison_of_pages: CompareStatus | None = None
    redo_failure: RedoFailure | None = None
    """Why the recovery of this standby broke off, until it was rebuilt or is a standby no more."""
    upstream_faults: tuple[Fault, ...] = ()
    """Of a standby: what the WAL that it received proves of the primary that wrote it."""
    rebuilt_revision: int = 0
    """Revision of the rebuild that made this data directory; 0 when it was made by initdb."""
    schema_applied: bool = False
    bytes_free: int | None = None
    bytes_total: int | None = None


class Receipt(msgspec.Struct, frozen=True):
    """What a server noted of one acknowledged write before it answered, without the row itself.

    `digest`: hex, as the database's own function `locum_digest` gives it for the row. `insert_lsn`: where the WAL was
    when the transaction was about to commit: all of it but its commit record lies below. It is compared only with LSNs of
    the same `timeline` (DESIGN section 4, receipts).
    """

    id: str
    version: int
    timeline: int
    insert_lsn: int
    digest: str


class ReceiptCheck(msgspec.Struct, frozen=True):
    """A server's receipts compared by content with the rows of the primary of `term`.

    acknowledged = present + restored + lost. `missing`: ids of the first rows that are missing, older or altered.
    """

    term: int
    acknowledged: int
    present: int
    restored: int = 0
    lost: int = 0
    double_booked: int = 0
    sealed: int = 0
    """Of the rows that are there, those that bear a seal and fit it. A row that does not fit counts as lost until it is restored."""
    missing: tuple[str, ...] = ()
    structure: tuple[str, ...] | None = None
    """What amcheck says of the booking tables and their indexes, once in a term; None where it did not come to an end."""
    reindexed: tuple[str, ...] = ()
    """Tables whose indexes were made anew before that, since rows had been put back or amcheck had found damage."""
    began_ms_ago: int = 0
    """When the report that carries it was sent: rows seen before a restart say nothing of what the restarted primary
    holds."""


class ReceiptsFound(msgspec.Struct, frozen=True):
    """What `CheckReceipts` found on a primary that is still closed: all that servers have acknowledged against its rows.

    `highest_lsn`: of the receipts of the node's own timeline; 0 when there is none.
    """

    revision: int
    incarnation: str
    acknowledged: int
    present: int
    highest_lsn: int
    missing: tuple[str, ...] = ()


class ServerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one server says of the primary that it follows; posted to `/v1/evidence` at once on a change, else every
    second. All ages are in ms at the time of sending."""

    server: str
    term: int
    phase: str
    """Phase of the topology record that it obeys: with `switching_over`, new writes are held."""
    primary: str | None = None
    writes_in_flight: int = 0
    held_requests: int = 0
    writes_failing_ms: int | None = None
    """How long no write has come back although some were tried; None while writes succeed or none are tried."""
    connect_error: str | None = None
    """`refused`, `timeout`, `reset` or an SQLSTATE: how the last attempt to reach the primary failed."""
    faults: tuple[Fault, ...] = ()
    receipts: ReceiptCheck | None = None
    """The newest check of this server's receipts; None until one ended."""
    receipts_problem: str | None = None
    """Why receipts do not reach their disk; None while they do."""
