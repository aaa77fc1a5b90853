"""pg_control and WAL, which PostgreSQL reads only when it starts: looked at while it runs (DESIGN section 5, WAL).

pg_control: its CRC, and that it never goes back. WAL: every record from the last checkpoint's on, as recovery would read it; only
an error before what is flushed is damage.
"""

from __future__ import annotations

import asyncio

from replication.control_file import ControlData, read_control
from replication.errors import ActionFailed
from replication.local_node import LocalNode
from replication.model import WAL_SEGMENT_BYTES, DataDirectory, FaultKind, Place, format_lsn
from replication.scrub.findings import Findings
from replication.wal_end import lasting_error
from replication.wal_files import segment_name, segment_start
from replication.wire.errors import WireError

_AGAIN, _PAUSE_S = 3, 0.1
_WINDOW_BYTES = 16 * 1024 * 1024
_WAL_PAGE_BYTES = 8192
_PAGES_ON = 4
"""A record may begin on one page and be broken on the next."""
_CONTROL = Place(path="global/pg_control")


class ControlWatch:
    """`look` now and then. Raises nothing but cancellation: what it cannot read yet is looked at the next time."""

    def __init__(self, local: LocalNode, findings: Findings) -> None:
        self._local = local
        self._findings = findings
        self._copy: int | None = None
        self._highest = 0
        self._wal_at = 0

    async def look(self) -> None:
        """pg_control, then the next stretch of WAL."""
        if self._local.memory.data is not DataDirectory.PRESENT or self._local.memory.doing is not None:
            return
        if self._copy != self._local.state.rebuilt_revision:
            self._copy, self._highest, self._wal_at = self._local.state.rebuilt_revision, 0, 0
        control = await self._control()
        if control is not None:
            await self._wal(control)

    async def look_at_replay(self) -> None:
        """Recovery cannot read a record that was streamed: the stretch of WAL in which it stands, at once."""
        facts = self._local.memory.sql.facts
        if facts is not None and facts.in_recovery and facts.replay_lsn is not None:
            self._wal_at = segment_start(facts.replay_lsn)
            await self.look()

    async def _control(self) -> ControlData | None:
        """It is written in place, so one bad reading is none: PostgreSQL's own tools read it again too."""
        said = ""
        for _ in range(_AGAIN):
            try:
                found = await read_control(self._local.node)
            except ActionFailed as error:
                said = error.sentence
            else:
                highest_redo = self._local.memory.sql.highest_redo
                if found.checkpoint_lsn >= self._highest and found.redo_lsn >= highest_redo:
                    self._highest = found.checkpoint_lsn
                    return found
                said = (
                    f"its checkpoint went back from {format_lsn(max(self._highest, highest_redo))} to"
                    f" {format_lsn(found.checkpoint_lsn)}"
                )
            await asyncio.sleep(_PAUSE_S)
        if "CRC" in said or "went back" in said:
            self._findings.add(
                FaultKind.CONTROL_CORRUPT,
                f"pg_control is damaged: {said}",
                what="pg_control, read from the disk",
                value=said,
                places=(_CONTROL,),
            )
        return None

    async def _wal(self, control: ControlData) -> None:
        facts = self._local.memory.sql.facts
        end = None if facts is None else facts.wal_on_disk
        if facts is None or end is None or control.timeline != facts.timeline:
            return  # right after a promotion the last checkpoint is the old timeline's
        start = max(self._wal_at, segment_start(control.redo_lsn))
        stop = min(end, start + _WINDOW_BYTES)
        self._wal_at = 0 if stop >= end else stop
        if start >= stop:
            return
        try:
            bad = await lasting_error(self._local.node, facts.timeline, start, stop)
        except ActionFailed:
            return
        if bad is None or not start <= bad[0] < stop:
            return
        place = Place(path=f"pg_wal/{segment_name(facts.timeline, bad[0] // WAL_SEGMENT_BYTES)}")
        if facts.in_recovery and await self._is_lost_on_primary(facts.timeline, start, bad[0], end):
            self._findings.add_to_primary(
                FaultKind.WAL_CORRUPT,
                f"its WAL cannot be read at {format_lsn(bad[0])}, neither there nor as it was sent",
                what="pg_waldump on both nodes",
                value=f"{format_lsn(bad[0])}: {bad[1]}",
                places=(place,),
            )
        says = f"its WAL cannot be read at {format_lsn(bad[0])}, below {format_lsn(end)}, where it is flushed"
        self._findings.add(
            FaultKind.WAL_CORRUPT,
            f"{says}, lost by this disk, or sent so by its primary"
            if facts.in_recovery
            else f"{says}: a restart would end there",
            what="pg_waldump",
            value=f"{format_lsn(bad[0])}: {bad[1]}",
            places=(place,),
        )

    async def _is_lost_on_primary(self, timeline: int, start: int, bad: int, end: int) -> bool:
        """Whether the primary cannot read its WAL there either: then its disk has lost it, and this node has what was sent.
        False when it cannot be told, and when the primary has written that page again since."""
        upstream = self._local.state.upstream
        if upstream is None:
            return False
        stop = min(end, bad - bad % _WAL_PAGE_BYTES + _PAGES_ON * _WAL_PAGE_BYTES)
        try:
            found = await self._local.peer(upstream).wal_error(timeline, start, stop)
        except (ActionFailed, WireError):
            return False
        return found is not None and found.lsn is not None and found.lsn <= bad
