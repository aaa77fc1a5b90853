"""What a node is and has: its role, its connections, what it was asked to find out."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from replication.model.faults import FaultKind, Place


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


class PlannedStop(msgspec.Struct, frozen=True):
    """A clean stop that the agent itself performed and remembers off the node's disk."""

    timeline: int
    checkpoint_lsn: int
    intact: bool
    """pg_control still says `shut down` at exactly this checkpoint, and that record is readable."""
