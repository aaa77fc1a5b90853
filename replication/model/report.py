"""Everything that one agent says of its node."""

from __future__ import annotations

import msgspec

from replication.model.faults import Fault
from replication.model.node import (
    ActionResult,
    Certificate,
    DataDirectory,
    Doing,
    Growth,
    PlacesRead,
    PlannedStop,
    Postmaster,
    Probe,
    Receiver,
    RedoFailure,
    Role,
    Slot,
    Stage,
    WalComparison,
    Walsender,
    Witness,
)
from replication.model.receipts import ReceiptsFound
from replication.model.search import CompareStatus, LedgerStatus, ScrubStatus


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
