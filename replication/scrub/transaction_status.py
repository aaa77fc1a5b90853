"""pg_xact, the fate of every transaction: two bits each, without a checksum. Compared with the other node's (DESIGN section 5, SLRU).

Only ids below the oldest that was active when either node's last checkpoint began: both have written those to their disks for
good. Pure, but for reading this node's files. Source: src/backend/access/transam/clog.c.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from replication.page_size import PAGE_BYTES
from replication.relation_files import open_past_cache, read_at
from replication.scrub.status_protocol import XIDS_A_PAGE, StatusSpan

PAGES_A_FILE = 32
_IN_PROGRESS, _SUB_COMMITTED = 0, 3
_PAGES_MAX = 16_384
"""Of half a thousand million transactions: 128 MB."""


def read_span(data_dir: Path, timeline: int, oldest: int, below: int) -> StatusSpan:
    """Digests of this node's pages that hold `oldest` .. `below`. Blocks. Raises OSError, ValueError for too many."""
    first, last = oldest // XIDS_A_PAGE, (max(below, 1) - 1) // XIDS_A_PAGE
    if below <= oldest:
        return StatusSpan(timeline, oldest, below, ())
    if last - first >= _PAGES_MAX:
        raise ValueError(f"more than {_PAGES_MAX} pages of pg_xact")
    found = (read_page(data_dir, page, oldest, below) for page in range(first, last + 1))
    return StatusSpan(
        timeline, oldest, below, tuple(hashlib.blake2b(page, digest_size=8).hexdigest() for page in found)
    )


def read_page(data_dir: Path, page: int, oldest: int, below: int) -> bytes:
    """One page, zero outside of `oldest` .. `below`. A file that is missing or short has no bits there. Raises OSError."""
    name, offset = f"{page // PAGES_A_FILE:04X}", page % PAGES_A_FILE
    try:
        descriptor, _cached = open_past_cache(data_dir / "pg_xact" / name)
    except FileNotFoundError:
        return bytes(PAGE_BYTES)
    try:
        data = read_at(descriptor, offset, 1)
    finally:
        os.close(descriptor)
    return _masked(data.ljust(PAGE_BYTES, b"\0"), page * XIDS_A_PAGE, oldest, below)


def place_of_page(page: int) -> str:
    """The file that it lies in, below the data directory."""
    return f"pg_xact/{page // PAGES_A_FILE:04X}"


def statuses(page: bytes) -> NDArray[np.uint8]:
    """The status of each transaction of a page, in order."""
    packed = np.frombuffer(page, dtype=np.uint8)
    return np.stack([(packed >> shift) & 3 for shift in (0, 2, 4, 6)], axis=1).reshape(-1)


def _masked(data: bytes, first_xid: int, oldest: int, below: int) -> bytes:
    found = statuses(data).copy()
    found[: max(0, oldest - first_xid)] = 0
    found[max(0, below - first_xid) :] = 0
    quads = found.reshape(-1, 4)
    packed = quads[:, 0] | quads[:, 1] << 2 | quads[:, 2] << 4 | quads[:, 3] << 6
    return packed.astype(np.uint8).tobytes()


class StatusBlame(msgspec.Struct, frozen=True):
    """How many transactions of a page two nodes judge differently, and on which of them what it says cannot be."""

    differing: int
    own_impossible: int
    peer_impossible: int

    @property
    def is_own(self) -> bool:
        """Only this node says what cannot be."""
        return self.own_impossible > 0 and self.peer_impossible == 0

    @property
    def is_peer(self) -> bool:
        return self.peer_impossible > 0 and self.own_impossible == 0


def blame(own: bytes, peer: bytes) -> StatusBlame:
    """A transaction that has ended is committed or aborted, on every node alike. One that a crash cut off stays without an end,
    on both, and may be marked as sub-committed on one."""
    ours, theirs = statuses(own), statuses(peer)
    unfinished = (_IN_PROGRESS, _SUB_COMMITTED)
    open_here, open_there = np.isin(ours, unfinished), np.isin(theirs, unfinished)
    differ = (ours != theirs) & ~(open_here & open_there)
    return StatusBlame(int(differ.sum()), int((differ & open_here).sum()), int((differ & open_there).sum()))
