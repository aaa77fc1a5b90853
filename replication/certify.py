"""The certificate of a standby after its base backup: amcheck of the booking tables (DESIGN section 5, Certificate)."""

from __future__ import annotations

import asyncpg

from replication.actions import Certify
from replication.errors import SQL_ERRORS, ActionFailed
from replication.model import Certificate, Reason
from replication.node import DATABASE, Node
from replication.retries import replay_conflicts
from replication.sql_write import bounded
from replication.wall_clock import wall_now

CHECKS = ("basebackup checksums", "amcheck bt_index_check heapallindexed", "amcheck verify_heapam")
_DEADLINE_S = 600.0

_REDO = "SELECT (redo_lsn - '0/0')::bigint FROM pg_control_checkpoint()"
_RELATIONS = """
SELECT c.oid::bigint AS oid, c.oid::regclass::text AS name, c.relkind::text AS kind,
       pg_relation_size(c.oid) / current_setting('block_size')::bigint AS pages
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am am ON am.oid = c.relam
LEFT JOIN pg_index i ON i.indexrelid = c.oid
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%'
  AND c.relpersistence = 'p'
  AND ((c.relkind = 'i' AND am.amname = 'btree' AND i.indisvalid) OR c.relkind IN ('r', 'm'))
ORDER BY c.relkind, c.oid
"""
_CHECK_INDEX = "SELECT bt_index_check($1::bigint::oid::regclass, true)"
_CHECK_HEAP = "SELECT blkno, msg FROM verify_heapam($1::bigint::oid::regclass, check_toast => true) LIMIT 5"


async def certify(node: Node, op: Certify, timeline: int) -> Certificate:
    """Check every B-tree and heap of the booking database on the running standby.

    The REDO location is read before the first page: the certificate covers what both nodes had checkpointed by then.
    `cached`: amcheck reads through shared buffers. Raises ActionFailed: FAILED names the relation and what is wrong
    with it, DEADLINE.
    """
    try:
        connection = await node.connect(database=DATABASE, application_name="locum_certify")
    except SQL_ERRORS as error:
        raise ActionFailed(Reason.FAILED, f"cannot connect to database {DATABASE}: {error!r}") from error
    try:
        work = _check_all(connection)
        redo_lsn, pages = await bounded(
            connection, work, deadline_s=_DEADLINE_S, what="the check of the booking tables"
        )
    except SQL_ERRORS as error:
        raise ActionFailed(Reason.FAILED, f"the check broke off: {error}") from error
    finally:
        connection.terminate()
    return Certificate(
        node=node.name,
        timeline=timeline,
        checked_through_lsn=min(redo_lsn, op.peer_redo_lsn),
        pages=pages,
        checks=CHECKS,
        cached=True,
        at=wall_now().replace("+00:00", "Z"),
    )


async def _check_all(connection: asyncpg.Connection) -> tuple[int, int]:
    redo_lsn = int(await connection.fetchval(_REDO))
    pages = 0
    for row in await connection.fetch(_RELATIONS):
        await replay_conflicts()(_check_one, connection, row)
        pages += row["pages"]
    return redo_lsn, pages


async def _check_one(connection: asyncpg.Connection, row: asyncpg.Record) -> None:
    name = row["name"]
    if row["kind"] == "i":
        try:
            await connection.execute(_CHECK_INDEX, row["oid"])
        except (asyncpg.IndexCorruptedError, asyncpg.DataCorruptedError, asyncpg.InternalServerError) as error:
            raise ActionFailed(Reason.FAILED, f"index {name} is damaged: {error}") from error
        return
    try:
        found = await connection.fetch(_CHECK_HEAP, row["oid"])
    except (asyncpg.DataCorruptedError, asyncpg.InternalServerError) as error:
        raise ActionFailed(Reason.FAILED, f"table {name} is damaged: {error}") from error
    if found:
        raise ActionFailed(Reason.FAILED, f"table {name} is damaged at block {found[0]['blkno']}: {found[0]['msg']}")
