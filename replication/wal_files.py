"""WAL segment files: their names, which one holds a byte, and the hash of a range (src/include/access/xlog_internal.h)."""

from __future__ import annotations

import hashlib
from pathlib import Path

from replication.errors import WalUnavailable
from replication.history import Timeline
from replication.model import WAL_SEGMENT_BYTES, format_lsn

_SEGMENTS_PER_XLOGID = 0x1_0000_0000 // WAL_SEGMENT_BYTES
_CHUNK_BYTES = 1024 * 1024


def hash_range(pg_wal: Path, timeline: Timeline, start: int, end: int) -> str:
    """SHA-256 (hexadecimal) of the WAL bytes in [start, end) of a timeline's history.

    Equal on two nodes exactly when the bytes are. Blocks: about a second for a gigabyte. Raises WalUnavailable when a
    segment is missing or too short.
    """
    digest = hashlib.sha256()
    position = start
    while position < end:
        stop = min(end, segment_start(position) + WAL_SEGMENT_BYTES)
        _feed(digest, find_segment(pg_wal, timeline, stop - 1), position, stop)
        position = stop
    return digest.hexdigest()


def find_segment(pg_wal: Path, timeline: Timeline, lsn: int) -> Path:
    """The file that holds the byte at `lsn`, and those before it in its segment. Raises WalUnavailable.

    A timeline begins in the middle of a segment, with a copy of what came before: that copy is used first, since the
    older timeline's own file may have been removed.
    """
    number = lsn // WAL_SEGMENT_BYTES
    last = segment_start(lsn) + WAL_SEGMENT_BYTES - 1
    candidates = [timeline.timeline, *(ancestor for ancestor, _ in reversed(timeline.forks))]
    for candidate in candidates:
        path = pg_wal / segment_name(candidate, number)
        if timeline.begins(candidate) <= last and candidate >= timeline.at(lsn) and path.exists():
            return path
    raise WalUnavailable(f"the WAL segment that holds {format_lsn(lsn)} is not there any more, or not yet")


def segment_name(timeline: int, number: int) -> str:
    """`000000010000000000000003` for segment 3 of timeline 1."""
    return f"{timeline:08X}{number // _SEGMENTS_PER_XLOGID:08X}{number % _SEGMENTS_PER_XLOGID:08X}"


def segment_start(lsn: int) -> int:
    """Where the segment of a position begins."""
    return lsn - lsn % WAL_SEGMENT_BYTES


def contiguous_end(pg_wal: Path, timeline: Timeline, start: int) -> int:
    """Where the unbroken row of whole segment files from `start` on ends. Blocks. Raises WalUnavailable at once when
    the first is missing."""
    find_segment(pg_wal, timeline, start)
    position = segment_start(start)
    while True:
        try:
            if find_segment(pg_wal, timeline, position).stat().st_size < WAL_SEGMENT_BYTES:
                return position
        except (WalUnavailable, FileNotFoundError):
            return position
        position += WAL_SEGMENT_BYTES


def _feed(digest: hashlib._Hash, path: Path, start: int, stop: int) -> None:
    try:
        with path.open("rb") as file:
            file.seek(start % WAL_SEGMENT_BYTES)
            left = stop - start
            while left:
                chunk = file.read(min(left, _CHUNK_BYTES))
                if not chunk:
                    raise WalUnavailable(f"the WAL segment {path.name} is too short")
                digest.update(chunk)
                left -= len(chunk)
    except FileNotFoundError as error:
        raise WalUnavailable(f"the WAL segment {path.name} was just removed") from error
