"""Which fault an error of PostgreSQL stands for, and where it lies: pure tables by SQLSTATE and message (DESIGN section 5)."""

from __future__ import annotations

import re

import asyncpg

from replication.errors import ActionFailed
from replication.model import FaultKind, Place, Reason

BY_SQLSTATE = {
    "58030": FaultKind.STORAGE_ERROR,
    "53100": FaultKind.STORAGE_FULL,
    "53200": FaultKind.OVERLOAD,
    "53300": FaultKind.OVERLOAD,
    "XX001": FaultKind.PAGE_CORRUPT,
    "XX002": FaultKind.INDEX_CORRUPT,
}
"""io_error, disk_full, out_of_memory, too_many_connections, data_corrupted, index_corrupted
(src/backend/utils/errcodes.txt)."""

MISMATCH = "lacks matching index tuple within index"
"""Of bt_index_check (contrib/amcheck/verify_nbtree.c), raised as data_corrupted: table and index do not agree, and which of them
is right it cannot tell. The index can be made anew."""
_BEYOND_END = "unexpected data beyond EOF in block"
"""A file ends before pages that PostgreSQL holds: the write that made it longer did not arrive. Raised without an SQLSTATE of its own
(src/backend/storage/buffer/bufmgr.c, ExtendBufferedRelShared), and nothing can be inserted from then on; the next VACUUM believes the
file and cuts the table there, on every node."""
_SHORT_WAL = "could not read from WAL segment"
"""A segment that ends before WAL that is flushed (src/backend/access/transam/xlogutils.c, WALReadRaiseError): data_corrupted too, and
no page of a table."""
_MAP_MISLEADS = re.compile(
    r"page (?:is not marked all-visible but visibility map bit is set|containing LP_DEAD items is marked as all-visible)"
    r' in relation "(?P<relation>[^"]+)" page (?P<block>\d+)'
)
"""VACUUM meets a map that calls rows visible which are not, and mends it (src/backend/access/heap/vacuumlazy.c): index-only scans have
been misled until then, and whoever looks afterwards finds nothing."""
_RAISED = ("ERROR", "FATAL", "PANIC")
_REDO = "WAL redo at"
_READ_ONLY = "Read-only file system"
"""strerror of EROFS, which has no SQLSTATE of its own (42501)."""
_NAMED_FILE = re.compile(
    r'\b(?:file|relation) "?(?:\./)?((?:base|global|pg_tblspc|pg_xact|pg_multixact|pg_wal)/[\w./-]+)"?'
)
_NAMED_SEGMENT = re.compile(r"\bWAL segment ([0-9A-F]{24})\b")
_NAMED_INDEX = re.compile(r'\bindex "([^"]+)"')
_TOAST = re.compile(r"\bfor toast value \d+ in (pg_toast_\d+)")
_BLOCK = re.compile(r"\b(?:among )?blocks? (\d+)")
_FIRST_BAD = re.compile(r"Block (\d+) held the first invalid page")
_FORK_OR_SEGMENT = re.compile(r"(?:_(?:fsm|vm|init))?(?:\.\d+)?$")
_OF_THE_KERNEL = re.compile(r"could not (?:read|write|fsync|extend|truncate|open|create|stat)\b.*\b(?:file|block)")
_RELATIONS = ("base/", "global/", "pg_tblspc/", "pg_xact/", "pg_multixact/")


def fault_of(error: BaseException) -> FaultKind | None:
    """The fault behind an error of the SQL probe; None when it shows none by itself (a server that starts or stops, a
    connection that somebody ended). Only silence is `unresponsive`."""
    if isinstance(error, TimeoutError) or (isinstance(error, ActionFailed) and error.reason is Reason.DEADLINE):
        return FaultKind.UNRESPONSIVE
    if isinstance(error, asyncpg.PostgresError):
        return BY_SQLSTATE.get(str(error.sqlstate))
    return None


def told_sqlstate(sqlstate: str, message: str) -> str:
    """The SQLSTATE, or data_corrupted for a message that PostgreSQL gives none."""
    return "XX001" if sqlstate == "XX000" and message.startswith(_BEYOND_END) else sqlstate


def fault_of_line(
    severity: str, sqlstate: str, message: str, *, detail: str = "", context: str = ""
) -> FaultKind | None:
    """The fault that a line of PostgreSQL's log shows; None for all that is no fault of disk, data or memory.

    errcode_for_file_access gives 58P01 for a file that is not there, which means damage only where a relation lies, and
    XX000 for errno that it does not know, such as EUCLEAN of a damaged file system (src/backend/utils/error/elog.c).
    """
    if severity == "WARNING" and message.startswith("checksum verification failed in file"):
        return FaultKind.PAGE_CORRUPT
    if severity == "WARNING" and _MAP_MISLEADS.match(message):
        return FaultKind.VM_CORRUPT
    if severity not in _RAISED:
        return None
    if _READ_ONLY in message and _OF_THE_KERNEL.search(message):
        return FaultKind.READ_ONLY
    if severity in ("FATAL", "PANIC") and _REDO in context:
        by_disk = BY_SQLSTATE.get(sqlstate) in (FaultKind.STORAGE_ERROR, FaultKind.STORAGE_FULL)
        return BY_SQLSTATE[sqlstate] if by_disk else FaultKind.REDO_FAILED
    sqlstate = told_sqlstate(sqlstate, message)
    if MISMATCH in message:
        return FaultKind.INDEX_CORRUPT
    if sqlstate == "XX001" and message.startswith(_SHORT_WAL):
        return FaultKind.WAL_CORRUPT
    if (kind := BY_SQLSTATE.get(sqlstate)) is not None:
        return kind
    place = place_of(f"{message} {detail}")
    in_relation = place is not None and place.path is not None and place.path.startswith(_RELATIONS)
    if sqlstate == "58P01":
        return FaultKind.PAGE_CORRUPT if in_relation else None
    if sqlstate == "XX000" and _OF_THE_KERNEL.search(message):
        return FaultKind.STORAGE_ERROR
    return FaultKind.STORAGE_ERROR if severity == "PANIC" else None


def place_of(text: str) -> Place | None:
    """Where an error message says that the damage lies; None when it names no file and no index."""
    if (misled := _MAP_MISLEADS.search(text)) is not None:
        return Place(relation=misled["relation"], block=int(misled["block"]))
    block = _FIRST_BAD.search(text) or _BLOCK.search(text)
    number = int(block[1]) if block is not None else None
    if (named := _NAMED_FILE.search(text)) is not None:
        return Place(path=_FORK_OR_SEGMENT.sub("", named[1]), block=number)
    if (segment := _NAMED_SEGMENT.search(text)) is not None:
        return Place(path=f"pg_wal/{segment[1]}")
    if (index := _NAMED_INDEX.search(text)) is not None:
        return Place(relation=index[1], block=number)
    if (toast := _TOAST.search(text)) is not None:
        return Place(relation=toast[1])
    return None
