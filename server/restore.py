"""Rows that the primary lacks, put back from their receipts (DESIGN section 4, receipts).

A row that is missing, older or altered is written again as it was acknowledged. Where a constraint forbids it, because the
time was given to somebody else meanwhile, it is left for a person.
"""

from __future__ import annotations

import asyncpg
import structlog

from server import store
from server.errors import DatabaseConflict, UnexpectedDatabaseError
from server.pool import Pool
from server.receipts import Receipts

_log = structlog.get_logger()

_DEADLINE_S = 10.0
_AT_ONCE_MAX = 5_000
"""More than that is no repair of a page but another database: a person decides."""


async def restore(pool: Pool, receipts: Receipts, names: list[str]) -> int:
    """Put these back where it can be done; how many were. Each is a synchronous commit of its own.

    What the table refuses although no row is there is tried once more after its indexes were made anew: over a page that
    went back in time they point at rows that took the places. Raises TryAgain when the primary went away meanwhile.
    """
    if not names or len(names) > _AT_ONCE_MAX:
        return 0
    try:
        rows = await receipts.rows(names)
    except OSError as error:
        _log.error("server.restore_unreadable", error=str(error))
        return 0
    refused = await _put_back(pool, rows)
    if refused and await _reindexed(pool):
        refused = await _put_back(pool, refused)
    done = len(rows) - len(refused)
    _log.warning("server.restored", rows=done, wanted=len(names))
    return done


async def _put_back(pool: Pool, rows: dict[str, bytes]) -> dict[str, bytes]:
    """Those that were refused."""
    return {name: row for name, row in rows.items() if not await _wrote(pool, store.RESTORE, row.decode())}


async def _reindexed(pool: Pool) -> bool:
    done = await _wrote(pool, store.REINDEX)
    _log.warning("server.reindexed", done=done)
    return done


async def _wrote(pool: Pool, sql: str, *args: object) -> bool:
    async with pool.link(_DEADLINE_S) as link:
        try:
            return bool(await link.write(sql, *args, deadline_s=_DEADLINE_S))
        except (DatabaseConflict, UnexpectedDatabaseError, asyncpg.PostgresError) as error:
            _log.error("server.restore_refused", sqlstate=getattr(error, "sqlstate", None))
            return False
