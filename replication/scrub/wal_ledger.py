"""The ledger: for each block the end LSN of its last WAL record, and what that says of a page on the disk. Pure.

A page bears the end LSN of the last record that changed it. So a page below that, when a completed checkpoint must have written
it, never reached the disk or came back from the past; and a page whose LSN is no record's of this block belongs elsewhere (DESIGN
section 5, lost, stale and misdirected pages). Only main forks are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from replication.model import WAL_SEGMENT_BYTES
from replication.scrub.tuples import Places

ENTRIES_MAX = 250_000
"""About 60 MB. Older entries are let go first; what concerns older pages is for the peer to say (compare.py)."""
FIRST_LSN = WAL_SEGMENT_BYTES
"""Where initdb's WAL begins (xlog.c, BootStrapXLOG). A page LSN below is none: an index build leaves 0/1 on a disk, unlogged
relations count from 1,000 on (xlogdefs.h, FirstNormalUnloggedLSN)."""


class Relation(NamedTuple):
    """A relation's files: oids of tablespace and database (0: shared), and its file number."""

    tablespace: int
    database: int
    number: int


class Mark(StrEnum):
    """What a record did to the LSN of a block that it names."""

    SET = "set"
    UNSURE = "unsure"
    """It may have left the LSN as it was: named only for a lock, without a change (src/backend/access/hash/hash_xlog.c); or an image
    for hint bits. Two backends with a share lock may each write one, and the page keeps either's LSN, or, while a checkpoint writes it
    just then, the one that it had (src/backend/storage/buffer/bufmgr.c, MarkBufferDirtyHint: only a page that is not dirty gets it)."""


class Ref(NamedTuple):
    """One record's word on one block. `image_lsn`: of the page before the change, when the record carries it whole. `places`: what
    it does to the tuples of a heap page (tuple_places.py); None where nothing is known of it."""

    relation: Relation
    block: int
    end_lsn: int
    mark: Mark = Mark.SET
    image_lsn: int | None = None
    places: Places | None = None


class Reading(StrEnum):
    """What the ledger says of a page that was read from the disk."""

    FITS = "fits"
    STALE = "stale"
    OCCUPIED = "occupied"
    """A tuple was put where WAL had put another since the page's last image: the page that it was put on had lost that one."""
    MISPLACED = "misplaced"
    ALTERED = "altered"
    """A row of it is not the bytes that WAL has."""
    UNTOLD = "untold"
    NOT_YET = "not_yet"
    """The WAL that tells has not been read yet."""


class Broken(NamedTuple):
    """A full-page image that does not go on where the block's last record ended: `stale`, or of somewhere else."""

    relation: Relation
    block: int
    end_lsn: int
    image_lsn: int
    previous_lsn: int
    reading: Reading


class Last(NamedTuple):
    """A block's last record ended at `lsn`; its page may bear any LSN from `floor` on. `occupied`: bit n for a tuple that WAL
    has put at place n of a heap page since its last image."""

    lsn: int
    floor: int
    occupied: int = 0


class _Batch(NamedTuple):
    end_lsn: int
    lasts: dict[Relation, dict[int, Last]]


class Ledger:
    """`since`: every block with a record that ended after it, and at or before `read_to`, is known."""

    def __init__(self, since: int) -> None:
        self.since = since
        self.read_to = since
        self._lasts: dict[Relation, dict[int, Last]] = {}
        self._batches: list[_Batch] = []
        self._entries = 0

    def __len__(self) -> int:
        return self._entries

    def note(self, refs: Iterable[Ref], read_to: int) -> list[Broken]:
        """The next stretch of WAL, each block's records in their order; it ends at `read_to`. Told: every image that breaks the
        chain. A stretch may be noted in pieces, when all but the last leave `read_to` where it was."""
        broken: list[Broken] = []
        end = read_to
        touched: dict[Relation, dict[int, Last]] = {}
        relation: Relation | None = None
        blocks: dict[int, Last] = {}
        fresh: dict[int, Last] = {}
        for ref in refs:
            end = max(end, ref.end_lsn)
            if ref.relation is not relation:  # those of one block come together
                relation = ref.relation
                blocks, fresh = self._lasts.setdefault(relation, {}), touched.setdefault(relation, {})
            known = blocks.get(ref.block)
            if ref.image_lsn is not None and (found := self._chain(ref, known)) is not None:
                broken.append(found)
            elif known is not None and ref.places is not None and ref.places.taken & known.occupied:
                broken.append(Broken(ref.relation, ref.block, ref.end_lsn, 0, known.lsn, Reading.OCCUPIED))
            last = _next(ref, known, 0 if ref.places is None else _occupied(ref, ref.places, known))
            blocks[ref.block] = fresh[ref.block] = last
            self._entries += known is None
        self.read_to = max(self.read_to, read_to)
        if touched:
            self._batches.append(_Batch(end, touched))
        if self._entries > ENTRIES_MAX:
            self._trim()
        return broken

    def last(self, relation: Relation, block: int) -> Last | None:
        """The block's last record, as far as the ledger goes back."""
        return self._lasts.get(relation, {}).get(block)

    def known(self) -> dict[Relation, dict[int, Last]]:
        """Every block's last record, as it is now."""
        return {relation: dict(blocks) for relation, blocks in self._lasts.items()}

    def due(self, redo_lsn: int) -> dict[Relation, dict[int, Last]]:
        """Blocks whose last record in a batch ended at or below this REDO location: a checkpoint has written them. They are
        handed out once; what the batch in which the checkpoint began holds beyond it, with the next checkpoint."""
        found: dict[Relation, dict[int, Last]] = {}
        left: list[_Batch] = []
        for batch in self._batches:
            later: dict[Relation, dict[int, Last]] = {}
            for relation, blocks in batch.lasts.items():
                for block, last in blocks.items():
                    into = found if last.lsn <= redo_lsn else later
                    into.setdefault(relation, {})[block] = last
            if later:
                left.append(_Batch(batch.end_lsn, later))
        self._batches = left
        return found

    def forget(self, relation: Relation, block: int) -> None:
        """The block was cut off and may have come back empty."""
        if self._lasts.get(relation, {}).pop(block, None) is not None:
            self._entries -= 1

    def judge(self, relation: Relation, block: int, lsn: int, redo_lsn: int) -> Reading:
        """What to think of a page that was read from the disk with this LSN, after the node's last completed checkpoint began
        at `redo_lsn`."""
        if 0 < lsn < FIRST_LSN:
            return Reading.UNTOLD
        last = self.last(relation, block)
        if lsn > self.read_to:
            return Reading.NOT_YET
        if last is None:
            return Reading.MISPLACED if lsn > self.since else Reading.UNTOLD
        if lsn > last.lsn:
            return Reading.MISPLACED if lsn > self.since else Reading.UNTOLD
        if lsn >= last.floor:
            return Reading.FITS
        return Reading.STALE if last.lsn <= redo_lsn else Reading.UNTOLD

    def _chain(self, ref: Ref, known: Last | None) -> Broken | None:
        image = ref.image_lsn or 0
        if image < FIRST_LSN:
            return None
        if known is not None and image < known.floor:
            return Broken(ref.relation, ref.block, ref.end_lsn, image, known.lsn, Reading.STALE)
        if known is not None and image > known.lsn:
            return Broken(ref.relation, ref.block, ref.end_lsn, image, known.lsn, Reading.MISPLACED)
        return (
            None  # without a record before it: a database copied file by file keeps its template's LSNs (dbcommands.c)
        )

    def _trim(self) -> None:
        """Let the older half go."""
        lsns = sorted(last.lsn for blocks in self._lasts.values() for last in blocks.values())
        limit = lsns[len(lsns) // 2]
        for relation, blocks in list(self._lasts.items()):
            kept = {block: last for block, last in blocks.items() if last.lsn > limit}
            if kept:
                self._lasts[relation] = kept
            else:
                del self._lasts[relation]
        self._entries = sum(len(blocks) for blocks in self._lasts.values())
        self.since = max(self.since, limit)
        self._batches = [batch for batch in self._batches if batch.end_lsn > limit]


def _next(ref: Ref, known: Last | None, occupied: int) -> Last:
    if ref.mark is Mark.SET:
        return Last(ref.end_lsn, ref.end_lsn, occupied)
    return Last(ref.end_lsn, known.floor if known is not None else 0, occupied)


def _occupied(ref: Ref, places: Places, known: Last | None) -> int:
    """What WAL says of a heap page's places after this record: nothing before an image, or after one that is not understood."""
    before = 0 if known is None or ref.image_lsn is not None or places.is_reset else known.occupied
    return before & ~places.freed | places.taken
