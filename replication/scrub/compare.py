"""The cross-node rule and the page digest: what two copies of a page say of each other. Pure (DESIGN section 5, checks 3 and 4)."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from replication.scrub.wal_ledger import FIRST_LSN


class Range(msgspec.Struct, frozen=True, array_like=True):
    """Neighbouring pages of a main fork, by its path without a segment number."""

    path: str
    first: int
    count: int


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """A page as it lies on a disk: its LSN, None when it is not whole, and the digest of its canonical form where it has one."""

    lsn: int | None
    digest: str | None = None


class Copies(msgspec.Struct, frozen=True):
    """What one node has of some ranges, fewer pages than asked at the end of a file. `redo_lsn`: of its last completed
    checkpoint, read before the first page."""

    timeline: int
    redo_lsn: int
    pages: tuple[tuple[Seen, ...], ...]
    cached: bool = False


class Judgement(msgspec.Struct, frozen=True):
    """What the node's own WAL says of its own copy. `guilty`: it is a fault of this node, and told as one."""

    node: str
    lsn: int | None
    reading: str
    guilty: bool
    sentence: str


class JudgePage(msgspec.Struct, frozen=True):
    """A page that its node is asked to judge; `peer_lsn`: of the other copy; `differs`: both bear one LSN, with unlike contents.
    `redo_lsn`: on a primary, whose standby's recovery broke off over this block at the record that starts there."""

    path: str
    block: int
    peer_lsn: int | None = None
    differs: bool = False
    redo_lsn: int | None = None


class Doubt(StrEnum):
    """What two copies of one page leave in doubt."""

    OWN_LATE = "own_late"
    PEER_LATE = "peer_late"
    DIFFER = "differ"


def doubt(own: Seen, peer: Seen, own_redo: int, peer_redo: int) -> Doubt | None:
    """A page is late when the other node has it with an LSN that its own last checkpoint must have written. At one LSN the
    contents must be equal, those of catalogs too: what changes them in place is in WAL (heapam.c, heap_inplace_update).

    Not compared: a page that is not whole, which other checks name, and one with an LSN that is none. Not late: a page with the
    same content (two backends that set hint bits side by side leave either's LSN, see wal_ledger.Mark).
    """
    if own.lsn is None or peer.lsn is None or 0 < own.lsn < FIRST_LSN or 0 < peer.lsn < FIRST_LSN:
        return None
    have_both = own.digest is not None and peer.digest is not None
    if have_both and own.digest == peer.digest:
        return None
    if own.lsn < peer.lsn <= own_redo:
        return Doubt.OWN_LATE
    if peer.lsn < own.lsn <= peer_redo:
        return Doubt.PEER_LATE
    return Doubt.DIFFER if own.lsn == peer.lsn and have_both else None
