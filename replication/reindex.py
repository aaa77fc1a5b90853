"""Reindex: over a page that went back in time or came from elsewhere, indexes point at rows that are not there, or not at all at
rows that are. Made anew from the table, they agree with it again."""

from __future__ import annotations

import asyncpg
import structlog

from replication.actions import Reindex
from replication.errors import ActionFailed
from replication.local_node import LocalNode, Outcome
from replication.model import FaultKind, Reason
from replication.relations import Relation, relations_of
from replication.sql_write import bounded

_log = structlog.get_logger()

_DEADLINE_S = 600.0
_QUOTED = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = $1::bigint::oid
"""


async def reindex(local: LocalNode, op: Reindex, revision: int) -> Outcome:
    """Every index of the tables that these places lie in. Bookings wait meanwhile.

    Raises ActionFailed(FAILED) when a table cannot be read, or holds what its constraints forbid: then a person decides.
    """
    del revision
    async with relations_of(local.node, list(op.places)) as relations:
        done = [await _one(relation) for relation in relations]
    local.memory.log_faults.repaired(FaultKind.INDEX_CORRUPT)
    _log.warning("agent.reindexed", relations=done)
    return Outcome(f"the indexes of {', '.join(done) or 'nothing'} were made anew")


async def _one(relation: Relation) -> str:
    what = "INDEX" if relation.kind == "i" else "TABLE"
    name = str(await relation.connection.fetchval(_QUOTED, relation.oid))
    work = relation.connection.execute(f"REINDEX {what} {name}")
    try:
        await bounded(relation.connection, work, deadline_s=_DEADLINE_S, what=f"making the indexes of {name} anew")
    except asyncpg.PostgresError as error:
        raise ActionFailed(Reason.FAILED, f"the indexes of {name} cannot be made anew: {error}") from error
    return name
