"""Checks of one relation at a time, in rotation: amcheck, pg_visibility, and whether its file is there.

They work on a primary and on a standby, and see shared buffers, not the disk (DESIGN section 5, other checks). Which relation
comes next is the one that was looked at longest ago; between two looks the service waits for many times as long as the last
one took, so that they never cost more than their share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import asyncpg
import msgspec
import structlog

from replication.errors import SQL_ERRORS, ActionFailed
from replication.faults import MISMATCH
from replication.local_node import LocalNode
from replication.model import FaultKind, Place, Postmaster, Stage
from replication.node import DATABASE
from replication.scrub.findings import Findings
from replication.sql_write import bounded
from replication.threads import in_thread

_log = structlog.get_logger()

_BREAKS_OFF: tuple[type[Exception], ...] = (*SQL_ERRORS, ActionFailed)
_CHECK_S = 120.0
_MISSING_AGAIN, _PAUSE_S = 4, 0.15
_RELATIONS = """
SELECT c.oid::bigint AS oid, c.oid::regclass::text AS name, c.relkind::text AS kind, coalesce(am.amname, '') AS method,
       pg_relation_filepath(c.oid) AS path, coalesce(i.indisvalid, true) AS is_valid
FROM pg_class c LEFT JOIN pg_am am ON am.oid = c.relam LEFT JOIN pg_index i ON i.indexrelid = c.oid
WHERE c.relpersistence = 'p' AND c.relkind IN ('r', 'i', 't', 'm', 'S') AND pg_relation_filepath(c.oid) IS NOT NULL
ORDER BY c.oid
"""
_STILL = "SELECT pg_relation_filepath($1::bigint::oid)"
_BTREE = "SELECT bt_index_check($1::bigint::oid::regclass, true)"
_GIN = "SELECT gin_index_check($1::bigint::oid::regclass)"
_HEAP = "SELECT blkno, msg FROM verify_heapam($1::bigint::oid::regclass, check_toast => true) LIMIT 5"
_VISIBLE = """
SELECT (t_ctid::text::point)[0]::bigint AS block, count(*) AS rows
FROM (SELECT t_ctid FROM pg_check_visible($1::bigint::oid::regclass)
      UNION ALL SELECT t_ctid FROM pg_check_frozen($1::bigint::oid::regclass)) AS bad GROUP BY 1 ORDER BY 1 LIMIT 5
"""
_GIN_SINCE = 18
_FIRST_NORMAL_OID = 16_384  # src/include/access/transam.h, FirstNormalObjectId


class Target(msgspec.Struct, frozen=True):
    """A relation that is checked. `path`: of its file, below the data directory."""

    oid: int
    name: str
    kind: str
    method: str
    path: str
    is_valid: bool

    @property
    def place(self) -> Place:
        return Place(path=self.path)


def next_target(targets: Iterable[Target], looked: dict[int, int], turn: int) -> Target | None:
    """The one that was looked at longest ago, or never: in turn of the bookings' own, and of PostgreSQL's
    catalogs. Pure."""
    catalogs: list[Target] = []
    own: list[Target] = []
    for target in targets:
        (own if target.oid >= _FIRST_NORMAL_OID else catalogs).append(target)
    chosen = (catalogs or own) if turn % 2 == 0 else (own or catalogs)
    return min(chosen, key=lambda target: (looked.get(target.oid, -1), target.oid), default=None)


class RelationChecks:
    """`look` at the next relation. Raises nothing but cancellation."""

    def __init__(self, local: LocalNode, findings: Findings) -> None:
        self._local = local
        self._findings = findings
        self._connection: asyncpg.Connection | None = None
        self._looked: dict[int, int] = {}
        self.turn = 0
        """How many looks there were."""
        self._unseen = 0

    async def look(self) -> None:
        """One relation: its file, its structure, its visibility map."""
        if not self._may_ask():
            self.close()
            return
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._local.node.connect(database=DATABASE, application_name="locum_scrub")
            work = self._next(self._connection)
            await bounded(self._connection, work, deadline_s=_CHECK_S, what="a check of one relation")
        except _BREAKS_OFF as error:
            _log.info("agent.check_broke_off", error=repr(error)[:300])
            self.close()
        except asyncio.CancelledError:
            self.close()
            raise

    def has_seen_all_since(self, turn: int) -> bool:
        """Whether every relation that there was at the last look has been looked at after that turn."""
        return bool(self._looked) and self._unseen == 0 and min(self._looked.values()) > turn

    def close(self) -> None:
        """Drop the connection: it must not outlive a role, nor hold up a stop."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    def _may_ask(self) -> bool:
        local = self._local
        facts = local.memory.sql.facts
        if local.supervisor.postmaster is not Postmaster.RUNNING or local.memory.doing is not None or facts is None:
            return False
        return facts.in_recovery or local.state.stage is Stage.OPEN

    async def _next(self, connection: asyncpg.Connection) -> None:
        targets = [Target(**dict(row)) for row in await connection.fetch(_RELATIONS)]
        self.turn += 1
        target = next_target(targets, self._looked, self.turn)
        if target is None:
            return
        self._looked[target.oid] = self.turn
        there = {one.oid for one in targets}
        self._looked = {oid: turn for oid, turn in self._looked.items() if oid in there}
        self._unseen = len(there) - len(self._looked)
        await self._file(connection, target)
        try:
            await self._structure(connection, target)
        except (asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError) as error:
            is_index = isinstance(error, asyncpg.IndexCorruptedError) or MISMATCH in str(error)
            kind = FaultKind.INDEX_CORRUPT if is_index else FaultKind.PAGE_CORRUPT
            self._add(kind, target, f"{target.name} is damaged: {error}", "amcheck", str(error))

    async def _structure(self, connection: asyncpg.Connection, target: Target) -> None:
        if target.kind == "i":
            if target.method == "btree" and target.is_valid:
                await connection.execute(_BTREE, target.oid)
            elif target.method == "gin" and connection.get_server_version().major >= _GIN_SINCE:
                await connection.execute(_GIN, target.oid)
            return
        if target.kind not in "rmt":
            return
        found = await connection.fetch(_HEAP, target.oid)
        if found:
            said = f"block {found[0]['blkno']}: {found[0]['msg']}"
            place = Place(path=target.path, block=found[0]["blkno"])
            self._add(FaultKind.PAGE_CORRUPT, target, f"{target.name} is damaged at {said}", "amcheck", said, place)
        await self._visibility(connection, target)

    async def _visibility(self, connection: asyncpg.Connection, target: Target) -> None:
        """Rows that the visibility map calls visible to all, or frozen, and that are not. Asked twice: it may have moved."""
        found = await connection.fetch(_VISIBLE, target.oid)
        if found:
            found = await connection.fetch(_VISIBLE, target.oid)
        if found:
            said = f"{sum(row['rows'] for row in found)} rows, first on block {found[0]['block']}"
            sentence = (
                f"the visibility map of {target.name} is wrong: it calls rows visible to all that are not ({said})"
            )
            place = Place(path=target.path, block=found[0]["block"])
            self._add(FaultKind.VM_CORRUPT, target, sentence, "pg_visibility", said, place)

    async def _file(self, connection: asyncpg.Connection, target: Target) -> None:
        """A relation that the catalog knows has a file, unless it was dropped or rewritten meanwhile."""
        for _ in range(_MISSING_AGAIN):
            if await in_thread((self._local.node.data_dir / target.path).exists):
                return
            await asyncio.sleep(_PAUSE_S)
            if await connection.fetchval(_STILL, target.oid) != target.path:
                return
        sentence = f"the file of {target.name} is gone from the disk"
        self._add(FaultKind.PAGE_CORRUPT, target, sentence, "look at the directory", target.path)

    def _add(
        self, kind: FaultKind, target: Target, sentence: str, what: str, value: str, place: Place | None = None
    ) -> None:
        self._findings.add(kind, sentence, what=what, value=value, places=(place or target.place,))
