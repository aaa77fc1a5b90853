"""Which fault an error of PostgreSQL stands for: a pure table by SQLSTATE (DESIGN section 5)."""

from __future__ import annotations

import asyncpg

from replication.errors import ActionFailed
from replication.model import FaultKind, Reason

BY_SQLSTATE = {
    "58030": FaultKind.STORAGE_ERROR,
    "53100": FaultKind.STORAGE_FULL,
    "53300": FaultKind.OVERLOAD,
    "XX001": FaultKind.PAGE_CORRUPT,
    "XX002": FaultKind.INDEX_CORRUPT,
}
"""io_error, disk_full, too_many_connections, data_corrupted, index_corrupted (src/backend/utils/errcodes.txt)."""


def fault_of(error: BaseException) -> FaultKind | None:
    """The fault behind an error of the SQL probe; None when it shows none by itself (a server that starts or stops, a
    connection that somebody ended). Only silence is `unresponsive`."""
    if isinstance(error, TimeoutError) or (isinstance(error, ActionFailed) and error.reason is Reason.DEADLINE):
        return FaultKind.UNRESPONSIVE
    if isinstance(error, asyncpg.PostgresError):
        return BY_SQLSTATE.get(str(error.sqlstate))
    return None
