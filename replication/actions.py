"""What the controller asks of an agent: one `Op` a kind of work, in an `Action` that is accepted at most once."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from replication.model import Place, Receipt, Stage


class InitDb(msgspec.Struct, frozen=True, tag="initdb"):
    """Create the cluster, while the store holds no system identifier; refused unless the directory is empty."""


class StartPrimary(msgspec.Struct, frozen=True, tag="start_primary"):
    """Start as primary, closed, with this list of names written before the start. Refused unless stopped."""

    names: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()


class ApplySchema(msgspec.Struct, frozen=True, tag="apply_schema"):
    """Create roles, database, extensions and the schema; idempotent; only while closed."""

    incarnation: str


class SetStage(msgspec.Struct, frozen=True, tag="set_stage"):
    """closed → replicating → open, for exactly this incarnation. Before `open` a synchronous probe commit that began
    after the start must have returned (with an empty list it returns at once)."""

    stage: Stage
    incarnation: str


class SetNames(msgspec.Struct, frozen=True, tag="set_names"):
    """Write synchronous_standby_names and reload; done when the running primary shows the new value."""

    names: tuple[str, ...]
    incarnation: str


class Grow(msgspec.Struct, frozen=True, tag="grow"):
    """Set the name, wait for `sync`, prove that commits wait, see the flush LSN pass: one action, told in `growth`."""

    name: str
    standby: str
    incarnation: str
    standby_incarnation: str


class EnsureSlot(msgspec.Struct, frozen=True, tag="ensure_slot"):
    """Make the physical slot of a standby on the primary (dropped first when lost or unreserved and inactive)."""

    slot: str


class StartStandby(msgspec.Struct, frozen=True, tag="start_standby"):
    """Start as a standby of `upstream` under `name`, after proving that the own history is the upstream's.

    With `upstream` None the node starts with an empty primary_conninfo and without proof, to be promoted on `wal_lost`
    or after its postmaster died.
    """

    name: str
    upstream: str | None
    slot: str | None = None
    stop_before_lsn: int | None = None
    """Only to be promoted: recovery ends before the record that starts there, over which it broke off."""


class CompareWal(msgspec.Struct, frozen=True, tag="compare_wal"):
    """On a stopped primary: compare its WAL with the eligible peer's (`comparison` in the report); without a peer, only
    see where it ends."""

    peer: str | None


class Promote(msgspec.Struct, frozen=True, tag="promote"):
    """The promotion sequence of DESIGN section 6 on a running standby; `slots` are made once writes flow."""

    slots: tuple[str, ...] = ()


class Checkpoint(msgspec.Struct, frozen=True, tag="checkpoint"):
    """An immediate CHECKPOINT, the first step of a switchover."""

    incarnation: str


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Planned stop, fast: waits until no backend is in SyncRep; at the deadline it fences instead."""

    deadline_ms: int
    incarnation: str


class Fence(msgspec.Struct, frozen=True, tag="fence"):
    """Kill every process of the node at once. `hold`: by an operator, until Unfence."""

    hold: bool = False


class Unfence(msgspec.Struct, frozen=True, tag="unfence"):
    """Lift an operator's fence; starts nothing."""


class Rebuild(msgspec.Struct, frozen=True, tag="rebuild"):
    """Replace the data directory by a base backup of `source`, under the name `rebuild_<node>_<nonce>`."""

    source: str
    slot: str
    nonce: str
    fast_checkpoint: bool = False
    only_differences: bool = False
    """Copy what differs from what is there (replication/difference); whatever goes wrong with that, all of it is copied."""
    self_test_mb: int = 0
    """Of a quarantined node: so much is written to its disk and read back before anything is copied there."""


class Certify(msgspec.Struct, frozen=True, tag="certify"):
    """amcheck of the booking tables on the running standby; with the base backup's verification: a certificate."""

    peer_redo_lsn: int


class ReadPlaces(msgspec.Struct, frozen=True, tag="read_places"):
    """On a running standby: read these places and the relations that they belong to, from disk and through shared
    buffers, before it is promoted past a damaged primary (`places_read` in the report). The named blocks come first; the
    rest is given up at the deadline."""

    places: tuple[Place, ...]
    deadline_ms: int


class Reindex(msgspec.Struct, frozen=True, tag="reindex"):
    """On an open primary: make the indexes of the tables that these places lie in anew."""

    places: tuple[Place, ...]
    incarnation: str


class DropMaps(msgspec.Struct, frozen=True, tag="drop_maps"):
    """On an open primary: throw the visibility maps of the tables that these places lie in away."""

    places: tuple[Place, ...]
    incarnation: str


class CheckReceipts(msgspec.Struct, frozen=True, tag="check_receipts"):
    """On a primary that is not open yet, or a standby that was restarted while it was being promoted: are these acknowledged
    writes all there? (`receipts_found` in the report). A standby has replayed all of its WAL first.

    The core decides it without receipts; the controller asks every server for theirs when it sends it.
    """

    incarnation: str
    receipts: tuple[Receipt, ...] = ()


Op = (
    InitDb
    | StartPrimary
    | ApplySchema
    | SetStage
    | SetNames
    | Grow
    | EnsureSlot
    | StartStandby
    | CompareWal
    | Promote
    | Checkpoint
    | Stop
    | Fence
    | Unfence
    | Rebuild
    | Certify
    | ReadPlaces
    | CheckReceipts
    | Reindex
    | DropMaps
)


def op_name(op: Op) -> str:
    """The tag of an operation (`start_primary`), as results and logs name it."""
    return str(op.__struct_config__.tag)


class Action(msgspec.Struct, frozen=True):
    """One thing for one node to do, accepted at most once.

    The agent refuses it unless: `term` is at least its highest, `revision` is above its highest, `boot_id` is its own,
    and `observed_clock_ms` (the `clock_ms` of the report that it answers) lies at most `action_ttl_ms` back on its own
    monotonic clock. Nothing else runs meanwhile: while `doing` is set only Fence is accepted, and it ends what runs.
    """

    node: str
    term: int
    revision: int
    boot_id: str
    observed_clock_ms: int
    op: Op


class LeaseRenewal(msgspec.Struct, frozen=True):
    """The leading controller's word that this node is the primary of `term`, in answer to the report that the boot
    `boot_id` gave at `answered_ms` on its own clock. Nothing is decided by it, so it has no revision."""

    term: int
    boot_id: str
    answered_ms: int


class Refusal(StrEnum):
    """Why an agent did not accept an action (HTTP 409 with `{"refused": …, "sentence": …}`)."""

    LOWER_TERM = "lower_term"
    STALE_REVISION = "stale_revision"
    OTHER_BOOT = "other_boot"
    TOO_LATE = "too_late"
    BUSY = "busy"
    OTHER_NODE = "other_node"
    FENCE_HELD = "fence_held"
    WRONG_STATE = "wrong_state"
