"""What can be wrong with a node, and how it is known."""

from __future__ import annotations

from enum import StrEnum

import msgspec


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


FREE_SPACE_MAP = "_fsm"
"""How the path of a map of free space ends. It is a hint without WAL, of which damage convicts nobody."""


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
