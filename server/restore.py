"""Rows that the primary lacks, put back from their receipts (DESIGN section 4, receipts).

A row that is missing, older or altered is written again as it was acknowledged, together with the idempotency keys under which it
was answered. Where a constraint forbids it, because the time was given to somebody else meanwhile, it is left for a person.
"""

from __future__ import annotations

from typing import NamedTuple

import asyncpg
import msgspec
import structlog

from server import store
from server.acknowledged import Acknowledged
from server.errors import DatabaseConflict, IndexMisleads, UnexpectedDatabaseError
from server.pool import Pool
from server.receipts import Receipts
from server.reindex import reindex_damaged

_log = structlog.get_logger()

_DEADLINE_S = 10.0
_AT_ONCE_MAX = 5_000
"""More than that is no repair of a page but another database: a person decides."""


class Restored(NamedTuple):
    """How many rows were put back, and which tables' indexes were made anew for it."""

    rows: int = 0
    reindexed: tuple[str, ...] = ()


async def restore(pool: Pool, receipts: Receipts, names: list[str]) -> Restored:
    """Put these back where it can be done. Each is a synchronous commit of its own.

    What the table refuses although no row is there is tried once more after its indexes were made anew: over a page that
    went back in time they point at rows that took the places. Raises TryAgain when the primary went away meanwhile.
    """
    if not names or len(names) > _AT_ONCE_MAX:
        return Restored()
    try:
        rows = await receipts.acknowledged(names)
    except OSError as error:
        _log.error("server.restore_unreadable", error=str(error))
        return Restored()
    refused = await _put_back(pool, rows)
    reindexed: tuple[str, ...] = ()
    if refused:
        reindexed = await reindex_damaged(pool, has_restored=True)
        refused = await _put_back(pool, refused) if reindexed else refused
    done = len(rows) - len(refused)
    _log.warning("server.restored", rows=done, wanted=len(names))
    return Restored(done, reindexed)


async def _put_back(pool: Pool, rows: dict[str, Acknowledged]) -> dict[str, Acknowledged]:
    """Those that were refused."""
    return {name: row for name, row in rows.items() if not await _wrote(pool, row)}


async def _wrote(pool: Pool, found: Acknowledged) -> bool:
    answers = msgspec.json.encode(found.answers).decode()
    async with pool.link(_DEADLINE_S) as link:
        try:
            return bool(await link.write(store.RESTORE, found.row.decode(), answers, deadline_s=_DEADLINE_S))
        except (DatabaseConflict, IndexMisleads, UnexpectedDatabaseError, asyncpg.PostgresError) as error:
            _log.error("server.restore_refused", sqlstate=getattr(error, "sqlstate", None))
            return False
