"""Timelines: which one a position in the WAL belongs to (src/backend/access/transam/timeline.c)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from replication.model import Lsn, parse_lsn


class Timeline(msgspec.Struct, frozen=True):
    """A timeline with its ancestors. `forks` gives, for each ancestor, the LSN at which it was left, oldest first."""

    timeline: int
    forks: tuple[tuple[int, int], ...] = ()

    def at(self, lsn: int) -> int:
        """The timeline that the byte at `lsn` belongs to."""
        return next((ancestor for ancestor, fork in self.forks if lsn < fork), self.timeline)

    def begins(self, timeline: int) -> int:
        """The LSN at which one of them begins; 0 for the oldest."""
        before = 0
        for ancestor, fork in self.forks:
            if ancestor == timeline:
                return before
            before = fork
        return before

    def contains(self, timeline: int, lsn: int) -> bool:
        """Whether WAL of `timeline` that ends at `lsn` is part of this history."""
        if timeline == self.timeline:
            return True
        return any(ancestor == timeline and lsn <= fork for ancestor, fork in self.forks)

    def for_range(self, timeline: int, end: int) -> Timeline:
        """The history by which to read WAL of `timeline` that ends at `end`: this one where that WAL is part of it, so
        that copies made at later forks can be used. Raises ValueError for a timeline that is no member."""
        return self if self.contains(timeline, end) else self.up_to(timeline)

    def up_to(self, timeline: int) -> Timeline:
        """The history of one of its own members. Raises ValueError for another timeline."""
        if timeline == self.timeline:
            return self
        ancestors = [ancestor for ancestor, _ in self.forks]
        if timeline not in ancestors:
            raise ValueError(f"timeline {timeline} is no ancestor of {self.timeline}")
        return Timeline(timeline, self.forks[: ancestors.index(timeline)])


def parse_history(timeline: int, text: str) -> Timeline:
    """A history file's content: lines `parent<TAB>switch LSN<TAB>reason`. Raises ValueError."""
    forks: list[tuple[int, Lsn]] = []
    for line in text.splitlines():
        fields = line.split("#")[0].split("\t")
        if len(fields) >= 2:
            forks.append((int(fields[0]), parse_lsn(fields[1].strip())))
    if [parent for parent, _ in forks] != sorted({parent for parent, _ in forks}):
        raise ValueError(f"the history of timeline {timeline} is not in order")
    return Timeline(timeline, tuple(forks))


def read_timeline(pg_wal: Path, timeline: int) -> Timeline:
    """The history of a timeline from the node's own pg_wal. Blocks. Raises OSError, ValueError."""
    if timeline == 1:
        return Timeline(1)
    return parse_history(timeline, (pg_wal / f"{timeline:08X}.history").read_text(encoding="utf-8"))


def newest_timeline(pg_wal: Path, timeline: int, lsn: int) -> Timeline:
    """The newest timeline in pg_wal that goes through `lsn` on `timeline` and has WAL of its own there. Blocks.

    A node that was promoted, or followed a promotion, and was killed before its next checkpoint has pg_control still on
    the timeline before. Raises OSError, ValueError.
    """
    names = [path.name for path in pg_wal.iterdir()]
    for name in sorted((name for name in names if name.endswith(".history")), reverse=True):
        found = int(name[:8], 16)
        has_wal = any(other.startswith(name[:8]) and len(other) == 24 for other in names)
        if found > timeline and has_wal and read_timeline(pg_wal, found).contains(timeline, lsn):
            return read_timeline(pg_wal, found)
    return read_timeline(pg_wal, timeline)
