"""Where the WAL of a stopped node ends: the last complete record, as pg_waldump reads it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import msgspec

from replication.control_file import ControlData, read_control
from replication.errors import ActionFailed, WalUnavailable
from replication.history import Timeline, newest_timeline
from replication.model import WAL_SEGMENT_BYTES, Reason, format_lsn, parse_lsn
from replication.node import Node
from replication.threads import in_thread
from replication.tools import run_tool
from replication.wal_files import contiguous_end, find_segment, segment_name, segment_start

_PAGE_BYTES = 8192
_SHORT_HEADER_BYTES = 24
_LONG_HEADER_BYTES = 40
_DEADLINE_S = 60.0
_TAIL_CHARS = 64 * 1024
STOPPED_AT = re.compile(r"error in WAL record at ([0-9A-F]+/[0-9A-F]+): *(.*)")
_RECORD = re.compile(
    r"^rmgr: (\S+)\s+len \(rec/tot\):\s*\d+/\s*(\d+),.*? lsn: ([0-9A-F]+/[0-9A-F]+),.*? desc: (\S*)", re.M
)


class StoppedWal(msgspec.Struct, frozen=True):
    """The WAL of a stopped node: LSNs as integers, `end_lsn` right behind the last complete record.

    `history` is that of the newest timeline that the node would follow; the last record may lie on an earlier one.
    """

    end_lsn: int
    last_record_lsn: int
    history: Timeline
    control: ControlData

    @property
    def timeline(self) -> int:
        """The timeline on which the last record lies."""
        return self.history.at(self.end_lsn - 1)


async def read_stopped_wal(node: Node) -> StoppedWal:
    """Read the local, stopped node's WAL from its last checkpoint's REDO on, as recovery would.

    Raises ActionFailed(FAILED): no record can be read there, it ends before the checkpoint's own record, or pg_control
    cannot be read.
    """
    control = await read_control(node)
    pg_wal = node.data_dir / "pg_wal"
    with tempfile.TemporaryDirectory(prefix="locum-wal-") as scratch:
        try:
            history = await in_thread(newest_timeline, pg_wal, control.timeline, control.checkpoint_lsn)
            stop = await in_thread(contiguous_end, pg_wal, history, control.redo_lsn)
            folder = pg_wal
            if control.redo_lsn < history.begins(history.timeline):
                folder = Path(scratch)
                await in_thread(_join_timelines, pg_wal, folder, history, control.redo_lsn, stop)
        except (WalUnavailable, OSError, ValueError) as error:
            raise ActionFailed(Reason.FAILED, f"the WAL of node {node.name} cannot be read: {error}") from error
        lsn, total_bytes, what = await _last_record(node, folder, history.timeline, control.redo_lsn, stop)
    end_lsn = record_end(lsn, total_bytes, what)
    if end_lsn <= control.checkpoint_lsn:
        sentence = (
            f"its WAL ends at {format_lsn(end_lsn)}, before its checkpoint at {format_lsn(control.checkpoint_lsn)}"
        )
        raise ActionFailed(Reason.FAILED, sentence)
    return StoppedWal(end_lsn, lsn, history, control)


def _join_timelines(pg_wal: Path, folder: Path, history: Timeline, start: int, stop: int) -> None:
    """Links to the segments in [start, stop), all named as of the newest timeline: pg_waldump reads only one."""
    for position in range(segment_start(start), stop, WAL_SEGMENT_BYTES):
        name = segment_name(history.timeline, position // WAL_SEGMENT_BYTES)
        (folder / name).symlink_to(find_segment(pg_wal, history, position).resolve())


async def _last_record(node: Node, pg_wal: Path, timeline: int, start: int, stop: int) -> tuple[int, int, str]:
    """(LSN, total bytes, name) of the last complete record in [start, stop).

    pg_waldump retries for 5 s on a missing segment, so it is told where the files end. Quiet, it says on which record it
    stopped; having come to `stop` it says nothing, and the last segment in which a record begins is printed.
    """
    said = await waldump(node, pg_wal, timeline, start, stop, "--quiet")
    found = STOPPED_AT.search(said)
    records: list[tuple[str, str, str, str]] = []
    if found is not None and parse_lsn(found[1]) >= start:
        records = _RECORD.findall(await waldump(node, pg_wal, timeline, parse_lsn(found[1]), stop, "--limit=1"))
    elif found is None and "error" not in said:
        position = stop
        while position > start and not records:
            position = max(start, segment_start(position - 1))
            printed = await waldump(node, pg_wal, timeline, position, stop)
            records = _RECORD.findall(printed[-_TAIL_CHARS:])
    if not records:
        raise ActionFailed(Reason.FAILED, f"no WAL record can be read at {format_lsn(start)}: {said.strip()[-300:]}")
    name, total, lsn, what = records[-1]
    return parse_lsn(lsn), int(total), f"{name} {what}"


async def first_error(node: Node, timeline: int, start: int, stop: int) -> tuple[int, str] | None:
    """Where pg_waldump stops in [start, stop) of the node's own WAL, and what it says; None when it comes through, or cannot
    begin. Raises ActionFailed at its deadline."""
    said = await waldump(node, node.data_dir / "pg_wal", timeline, start, stop, "--quiet")
    found = STOPPED_AT.search(said)
    return (parse_lsn(found[1]), found[2].strip()) if found is not None else None


async def lasting_error(node: Node, timeline: int, start: int, stop: int) -> tuple[int, str] | None:
    """The same, read twice: a segment may be recycled while it is read."""
    found = None
    for _ in range(2):
        found = await first_error(node, timeline, start, stop)
        if found is None:
            return None
    return found


async def waldump(node: Node, pg_wal: Path, timeline: int, start: int, stop: int, *more: str) -> str:
    """What pg_waldump prints of [start, stop), errors among it. Raises ActionFailed at its deadline."""
    command = node.installation.command(
        "pg_waldump",
        f"--path={pg_wal}",
        f"--timeline={timeline}",
        f"--start={format_lsn(start)}",
        f"--end={format_lsn(stop)}",
        *more,
        # Without it the size of segments is read from whichever file comes first, which may be one made ahead: all zeros.
        segment_name(timeline, start // WAL_SEGMENT_BYTES),
        segment_name(timeline, (stop - 1) // WAL_SEGMENT_BYTES),
    )
    # It ends with 1 at the end of the WAL, which is no failure here: what it says tells them apart.
    output = await run_tool(command, deadline_s=_DEADLINE_S, warnings=True, codes=(0, 1))
    return output.decode(errors="replace")


def record_end(start: int, total_bytes: int, what: str) -> int:
    """Right behind a record: page headers counted in, aligned to 8 (src/backend/access/transam/xlogreader.c).

    A switch record (`XLOG SWITCH`) fills the rest of its segment.
    """
    if what == "XLOG SWITCH":
        return segment_start(start) + WAL_SEGMENT_BYTES
    position, left = start, total_bytes
    while True:
        room = _PAGE_BYTES - position % _PAGE_BYTES
        if left <= room:
            return (position + left + 7) & ~7
        left -= room
        position += room
        position += _LONG_HEADER_BYTES if position % WAL_SEGMENT_BYTES == 0 else _SHORT_HEADER_BYTES
