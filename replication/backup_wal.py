"""Whether the WAL that came with a copy leads to where its backup ended: without it no start of the copy ever succeeds.

A source whose disk lost WAL hands the hole on, and pg_basebackup does not read what it receives. Recovery from a backup is
consistent from its end record on (src/backend/access/transam/xlogrecovery.c, XLOG_BACKUP_END).
"""

from __future__ import annotations

import re

from replication.errors import ActionFailed, WalUnavailable
from replication.history import read_timeline
from replication.model import Reason, format_lsn, parse_lsn
from replication.node import Node
from replication.threads import in_thread
from replication.wal_end import STOPPED_AT, waldump
from replication.wal_files import contiguous_end

_START = re.compile(r"^START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+) ", re.M)
_TIMELINE = re.compile(r"^START TIMELINE: (\d+)$", re.M)
_BACKUP_END = re.compile(r"desc: BACKUP_END ([0-9A-F]+/[0-9A-F]+)")


async def check_backup_wal(node: Node, source: str) -> None:
    """Read the stopped node's WAL from the start in its backup_label to the record that ends this backup.

    Raises ActionFailed(FAILED): there is no label, a file of WAL is missing, or a record before the end cannot be read.
    """
    try:
        start, timeline = await in_thread(_read_label, node)
        pg_wal = node.data_dir / "pg_wal"
        history = await in_thread(read_timeline, pg_wal, timeline)
        stop = await in_thread(contiguous_end, pg_wal, history, start)
    except (WalUnavailable, OSError, ValueError) as error:
        raise ActionFailed(Reason.FAILED, f"the copy from {source} has no WAL to start with: {error}") from error
    if stop <= start:
        raise ActionFailed(
            Reason.FAILED, f"the WAL that {source} gave ends before its backup began, at {format_lsn(start)}"
        )
    said = await waldump(node, pg_wal, timeline, start, stop, "--rmgr=XLOG")
    if any(parse_lsn(found) == start for found in _BACKUP_END.findall(said)):
        return
    stopped = STOPPED_AT.search(said)
    where = f": at {stopped[1]}, {stopped[2].strip()}" if stopped is not None else f" before {format_lsn(stop)}"
    raise ActionFailed(Reason.FAILED, f"the WAL that {source} gave cannot be read to the end of its backup{where}")


def _read_label(node: Node) -> tuple[int, int]:
    """(LSN, timeline) at which recovery of the copy begins. Blocks. Raises OSError, ValueError."""
    label = (node.data_dir / "backup_label").read_text(encoding="utf-8", errors="replace")
    start, timeline = _START.search(label), _TIMELINE.search(label)
    if start is None or timeline is None:
        raise ValueError("its backup_label does not say where it begins")
    return parse_lsn(start[1]), int(timeline[1])
