"""Indexes of the booking tables, made anew where they lead elsewhere than the rows do.

Over a page that was lost, or lay in another's place, an index points at rows that are not there. A wrong page that PostgreSQL wrote
whole into WAL is on both nodes, so that no promotion helps; and bookings that meet such an index wait.
"""

from __future__ import annotations

import asyncpg
import structlog

from server import store
from server.errors import DatabaseConflict, UnexpectedDatabaseError
from server.pool import Pool
from server.retries import once_more_after_deadlock

_log = structlog.get_logger()

_BYTES_MAX = 512 * 1024 * 1024
"""Of a table with its indexes: some ten seconds, in which bookings wait. For more a person chooses the hour."""
_DEADLINE_S = 60.0
_RESTORED = ("appointment",)


async def reindex_damaged(pool: Pool, *, has_restored: bool) -> tuple[str, ...]:
    """Tables whose indexes were made anew: where amcheck finds one damaged, and those into which rows were put back.

    Raises TryAgain when the primary went away meanwhile.
    """
    always = list(_RESTORED) if has_restored else []
    async with pool.link(_DEADLINE_S) as link:
        try:
            done: list[str] = await once_more_after_deadlock()(
                link.write, store.REINDEX_DAMAGED, _BYTES_MAX, always, deadline_s=_DEADLINE_S
            )
        except (DatabaseConflict, UnexpectedDatabaseError, asyncpg.PostgresError) as error:
            _log.error("server.reindex_refused", sqlstate=getattr(error, "sqlstate", None))
            return ()
    _log.warning("server.reindexed", tables=done)
    return tuple(done)
