"""Damaged maps of free space: suspected by the page scrub, made anew by VACUUM, forgotten when the scrub sees them whole.

A map is a hint, without WAL of its own. PostgreSQL takes a damaged page of it for an empty one (src/backend/storage/freespace/
freespace.c, fsm_readbuf), and nothing cuts a map off while its table is in use; but a VACUUM that passes no page over notes the free
space of each again, and a checkpoint writes that. Where a sound page of it is in shared buffers nothing is to be noted, and the disk
gets it when it changes next. A standby's is made whole by what it replays. An index's, which lists pages to be used again, only by
such pages, or by REINDEX: that is for a person.
"""

from __future__ import annotations

import asyncpg
import structlog

from replication.errors import SQL_ERRORS, ActionFailed
from replication.local_node import LocalNode
from replication.model import FREE_SPACE_MAP, FaultKind, Place, Role, Stage
from replication.relations import Relation, relations_of
from replication.scrub.findings import Findings
from replication.sql_write import bounded
from replication.threads import in_thread

_log = structlog.get_logger()

_DEADLINE_S = 600.0
_QUOTED = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = $1::bigint::oid
"""
_VACUUM = "VACUUM (DISABLE_PAGE_SKIPPING, TRUNCATE OFF)"
_TABLES = "rtm"
_NO_ANSWER: tuple[type[Exception], ...] = (ActionFailed, *SQL_ERRORS)


class FreeSpaceMaps:
    """`look` again and again."""

    def __init__(self, local: LocalNode, findings: Findings) -> None:
        self._local = local
        self._findings = findings
        self._tried: set[Place] = set()

    async def look(self) -> None:
        """Forget the maps that are gone with their table; on an open primary make the others anew that are suspected, each place once."""
        suspected = await self._suspected()
        self._tried &= suspected
        due = suspected - self._tried
        if not due or not self._is_open_primary():
            return
        self._tried |= due
        try:
            done = await self._remake(due)
        except _NO_ANSWER as error:
            _log.warning(
                "agent.free_space_map_not_remade", places=[str(place) for place in due], error=repr(error)[:300]
            )
            return
        _log.warning("agent.free_space_maps_remade", tables=done, places=[str(place) for place in due])

    async def _suspected(self) -> set[Place]:
        """Without those of tables that were dropped, or written anew into other files."""
        places = {
            place
            for fault in self._local.memory.log_faults.faults()
            for place in fault.places
            if fault.kind is FaultKind.PAGE_CORRUPT
            and not fault.is_proof
            and (place.path or "").endswith(FREE_SPACE_MAP)
        }
        data_dir = self._local.node.data_dir
        gone = {place for place in places if not await in_thread((data_dir / str(place.path)).exists)}
        self._findings.disprove(FaultKind.PAGE_CORRUPT, gone.__contains__)
        return places - gone

    def _is_open_primary(self) -> bool:
        local = self._local
        is_free = local.memory.doing is None and not local.memory.scrub_pause.is_on
        facts, state = local.memory.sql.facts, local.state
        is_open = facts is not None and not facts.in_recovery and state.configured_role is Role.PRIMARY
        return is_free and is_open and state.stage is Stage.OPEN

    async def _remake(self, places: set[Place]) -> list[str]:
        """Of the tables that these places lie in. Only other VACUUMs and changes of a table's form wait. Raises ActionFailed and
        SQL_ERRORS."""
        of_relations = [Place(path=str(place.path).removesuffix(FREE_SPACE_MAP)) for place in places]
        done: list[str] = []
        async with relations_of(self._local.node, of_relations) as relations:
            for relation in [one for one in relations if one.kind in _TABLES]:
                name = str(await relation.connection.fetchval(_QUOTED, relation.oid))
                await _run(relation, f"{_VACUUM} {name}", f"making the map of free space of {name} anew")
                done.append(name)
            if done:
                await _run(relations[0], "CHECKPOINT", "a checkpoint")
        return done


async def _run(relation: Relation, statement: str, what: str) -> None:
    connection: asyncpg.Connection = relation.connection
    await bounded(connection, connection.execute(statement), deadline_s=_DEADLINE_S, what=what)
