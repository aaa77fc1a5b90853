"""Whether the visibility maps tell the truth (contrib/pg_visibility), one table at a time, in a rotation of its own.

An index-only scan believes the map, and returns a row that was deleted; nothing else in PostgreSQL sees it. The rotation is apart
from amcheck's since one look costs a hundredth of one there: a map is to be found out within seconds, not after all indexes.
"""

from __future__ import annotations

import asyncpg

from replication.local_node import LocalNode
from replication.model import FaultKind, Place
from replication.scrub.findings import Findings
from replication.scrub.rotation import Rotation, Target

_KINDS = "rtm"
_HEAP = "heap"
_CATALOGS_EVERY = 4
_MISLED = """
WITH unseen AS (
    SELECT (t_ctid::text::point)[0]::bigint AS block, array_agg((t_ctid::text::point)[1]::int) AS pointers
    FROM pg_check_visible($1::bigint::oid::regclass) GROUP BY 1
), deleted AS (
    SELECT unseen.block FROM unseen
    CROSS JOIN LATERAL heap_page_items(get_raw_page($2::text, 'main', unseen.block)) AS item
    WHERE item.lp = ANY(unseen.pointers) AND (
        item.lp_flags = 3                                                           -- LP_DEAD (itemid.h)
        OR item.t_infomask & x'0100'::int = 0                                       -- HEAP_XMIN_COMMITTED (htup_details.h)
        OR item.t_infomask & (x'0800'::int | x'0080'::int) = 0)                     -- HEAP_XMAX_INVALID, HEAP_XMAX_LOCK_ONLY
), unfrozen AS (
    SELECT (t_ctid::text::point)[0]::bigint AS block FROM pg_check_frozen($1::bigint::oid::regclass) LIMIT 200
)
SELECT block, count(*) AS rows FROM (SELECT * FROM deleted UNION ALL SELECT * FROM unfrozen) AS bad GROUP BY 1 ORDER BY 1
"""
"""Rows that a map calls visible to all although they were deleted, replaced or never committed, or frozen and that are not. Rows
that are committed and only newer than some snapshot do not count: the oldest snapshot that pg_visibility compares with can step
back, when a standby reports an older one, and it says so of sound maps then."""


class VisibilityChecks:
    """What is looked at in `rotation`."""

    def __init__(self, local: LocalNode, findings: Findings) -> None:
        self._findings = findings
        self.rotation = Rotation(local, _KINDS, self._check, fork="vm", catalogs_every=_CATALOGS_EVERY)

    async def _check(self, connection: asyncpg.Connection, target: Target) -> None:
        """Asked twice: a row may have been deleted between the map and the page."""
        if target.method != _HEAP:
            return
        found = await connection.fetch(_MISLED, target.oid, target.name)
        if found:
            found = await connection.fetch(_MISLED, target.oid, target.name)
        if not found:
            return
        said = f"{sum(row['rows'] for row in found)} rows, first on block {found[0]['block']}"
        self._findings.add(
            FaultKind.VM_CORRUPT,
            f"the visibility map of {target.name} is wrong: it calls rows visible to all that are not ({said})",
            what="pg_visibility",
            value=said,
            places=(Place(path=target.path, block=found[0]["block"]),),
        )
