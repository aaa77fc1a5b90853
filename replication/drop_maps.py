"""DropMaps: a visibility map that lies is thrown away, not mended. VACUUM makes it anew from the table.

A map is copied by WAL as a whole page when one bit of it is set (src/backend/access/heap/visibilitymap.c, visibilitymap_set), so
that what a disk has made of it reaches the standby. The truncation is in WAL too, and frees every copy of the lie.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import asyncpg
import structlog

from replication.actions import DropMaps
from replication.errors import ActionFailed
from replication.local_node import LocalNode, Outcome
from replication.model import FaultKind, Reason
from replication.relations import Relation, relations_of
from replication.retries import lock_refused
from replication.sql_write import bounded

_log = structlog.get_logger()

_DEADLINE_S = 10.0
_LOCK_WITHIN = "SET lock_timeout = '100ms'"
_DROP = "SELECT pg_truncate_visibility_map($1::bigint::oid::regclass)"
_WITH_MAPS = "rtm"


async def drop_maps(local: LocalNode, op: DropMaps, revision: int) -> Outcome:
    """The maps of the tables that these places lie in. Each is locked for a moment, for which nobody waits longer than 0.1 s.

    Raises ActionFailed(FAILED) when a table cannot be locked or its map cannot be cut off; it may be tried again.
    """
    del revision
    async with relations_of(local.node, list(op.places)) as relations:
        done = [await _one(relation) for relation in relations if relation.kind in _WITH_MAPS]
    local.memory.log_faults.repaired(FaultKind.VM_CORRUPT)
    _log.warning("agent.maps_dropped", relations=done)
    return Outcome(f"the visibility maps of {', '.join(done) or 'nothing'} were thrown away")


async def _one(relation: Relation) -> str:
    try:
        await relation.connection.execute(_LOCK_WITHIN)
        work: Coroutine[Any, Any, str] = lock_refused()(relation.connection.execute, _DROP, relation.oid)
        what = f"throwing the visibility map of {relation.name} away"
        await bounded(relation.connection, work, deadline_s=_DEADLINE_S, what=what)
    except asyncpg.PostgresError as error:
        sentence = f"the visibility map of {relation.name} cannot be thrown away: {error}"
        raise ActionFailed(Reason.FAILED, sentence) from error
    return relation.name
