"""Which relation is looked at next: the one that was looked at longest ago, the bookings' own and PostgreSQL's catalogs in turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

import asyncpg
import msgspec
import structlog

from replication.errors import SQL_ERRORS, ActionFailed
from replication.local_node import LocalNode
from replication.model import Place, Postmaster, Stage
from replication.node import DATABASE
from replication.sql_write import bounded

_log = structlog.get_logger()

_BREAKS_OFF: tuple[type[Exception], ...] = (*SQL_ERRORS, ActionFailed)
_CHECK_S = 120.0
_LIST_EVERY_S = 10.0
_RELATIONS = """
SELECT c.oid::bigint AS oid, c.oid::regclass::text AS name, c.relkind::text AS kind, coalesce(am.amname, '') AS method,
       pg_relation_filepath(c.oid) AS path, coalesce(i.indisvalid, true) AS is_valid
FROM pg_class c LEFT JOIN pg_am am ON am.oid = c.relam LEFT JOIN pg_index i ON i.indexrelid = c.oid
WHERE c.relpersistence = 'p' AND c.relkind::text = ANY($1::text[]) AND pg_relation_filepath(c.oid) IS NOT NULL
  AND ($2::text = 'main' OR pg_relation_size(c.oid, $2::text) > 0)
ORDER BY c.oid
"""
_STILL = "SELECT pg_relation_filepath($1::bigint::oid)"
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


def next_target(targets: Iterable[Target], looked: dict[int, int], turn: int, catalogs_every: int = 2) -> Target | None:
    """The one that was looked at longest ago, or never: of the bookings' own, and each `catalogs_every` turns of PostgreSQL's
    catalogs. Pure."""
    catalogs: list[Target] = []
    own: list[Target] = []
    for target in targets:
        (own if target.oid >= _FIRST_NORMAL_OID else catalogs).append(target)
    chosen = (catalogs or own) if turn % catalogs_every == 0 else (own or catalogs)
    return min(chosen, key=lambda target: (looked.get(target.oid, -1), target.oid), default=None)


class Rotation:
    """`look` at the next relation of these kinds (pg_class.relkind) that has this fork, with a check. Raises nothing but
    cancellation."""

    def __init__(
        self,
        local: LocalNode,
        kinds: str,
        check: Callable[[asyncpg.Connection, Target], Awaitable[None]],
        *,
        fork: str = "main",
        catalogs_every: int = 2,
    ) -> None:
        self._local = local
        self._kinds, self._fork = list(kinds), fork
        self._check = check
        self._catalogs_every = catalogs_every
        self._targets: list[Target] = []
        self._listed_s = -_LIST_EVERY_S
        self._connection: asyncpg.Connection | None = None
        self._looked: dict[int, int] = {}
        self.turn = 0
        """How many looks there were."""
        self._unseen = 0

    async def ready(self) -> bool:
        """Whether there is somebody to ask, and a connection. Apart from `look`, whose time is the price of a look."""
        if not self._may_ask():
            self.close()
            return False
        if self._connection is None or self._connection.is_closed():
            try:
                self._connection = await self._local.node.connect(database=DATABASE, application_name="locum_scrub")
            except _BREAKS_OFF as error:
                _log.info("agent.check_broke_off", error=repr(error)[:300])
                return False
        return True

    async def look(self) -> None:
        """One relation, after `ready`."""
        connection = self._connection
        if connection is None:
            return
        try:
            await bounded(connection, self._next(connection), deadline_s=_CHECK_S, what="a check of one relation")
        except _BREAKS_OFF as error:
            _log.info("agent.check_broke_off", error=repr(error)[:300])
            self._listed_s = -_LIST_EVERY_S
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
        if time.monotonic() >= self._listed_s + _LIST_EVERY_S:
            rows = await connection.fetch(_RELATIONS, self._kinds, self._fork)
            self._targets = [Target(**dict(row)) for row in rows]
            self._listed_s = time.monotonic()
        self.turn += 1
        target = next_target(self._targets, self._looked, self.turn, self._catalogs_every)
        if target is None:
            return
        self._looked[target.oid] = self.turn
        there = {one.oid for one in self._targets}
        self._looked = {oid: turn for oid, turn in self._looked.items() if oid in there}
        self._unseen = len(there) - len(self._looked)
        if await connection.fetchval(_STILL, target.oid) == target.path:
            await self._check(connection, target)
        else:
            self._listed_s = -_LIST_EVERY_S  # dropped or rewritten since it was listed
