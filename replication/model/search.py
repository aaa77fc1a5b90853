"""How far the search for damage has come on a node."""

from __future__ import annotations

import msgspec


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
    `verified_lsn`: REDO of the newest checkpoint after which all that it wrote was read from the disk; `unverified_bytes`: WAL
    before the last checkpoint that this has not come to. `chain_checked`: False where PostgreSQL (15) does not give the images
    in WAL. `problem`: why it does not read.
    """

    lag_bytes: int
    since_lsn: int
    read_to_lsn: int
    entries: int
    verified_lsn: int
    verified_blocks: int
    chain_checked: bool
    images: int
    unverified_bytes: int = 0
    problem: str | None = None


class CompareStatus(msgspec.Struct, frozen=True):
    """A standby's comparison of its pages with its primary's: passes since its agent began, `progress` 0..1 of the one under
    way, and pages and end of the last that ended. `compared`: pages of all passes, those that one pass looks at again and again too."""

    passes: int = 0
    progress: float = 0.0
    pages: int = 0
    ended_at: str | None = None
    took_s: float = 0.0
    compared: int = 0
