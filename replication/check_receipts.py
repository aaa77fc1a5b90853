"""CheckReceipts: whether a primary that is still closed holds everything that servers have acknowledged (the lone rule)."""

from __future__ import annotations

import msgspec

from replication.actions import CheckReceipts
from replication.errors import ActionFailed
from replication.local_node import LocalNode, Outcome
from replication.model import Reason, Receipt, ReceiptsFound
from replication.node import DATABASE
from replication.retries import until
from replication.sql_write import bounded

_BATCH = 1_000
_DEADLINE_S = 60.0
_MISSING_MAX = 20
_REPLAY_DEADLINE_MS = 60_000
_WAITS = """
SELECT NOT pg_is_in_recovery() OR EXISTS (
    SELECT 1 FROM pg_stat_activity WHERE backend_type = 'startup'
    AND wait_event IN ('RecoveryWalStream', 'RecoveryRetrieveRetryInterval'))
"""
"""The startup process has run out of WAL (src/backend/access/transam/xlogrecovery.c, WaitForWALToBecomeAvailable)."""
_MISSING = "SELECT id::text FROM locum_missing($1::jsonb)"


async def check_receipts(local: LocalNode, op: CheckReceipts, revision: int) -> Outcome:
    """Compare by content, in the database itself. Raises ActionFailed: WRONG_STATE when the timeline is not known yet,
    FAILED with PostgreSQL's words, DEADLINE."""
    await local.refresh()
    facts = local.memory.sql.facts
    if facts is None or facts.timeline is None:
        raise ActionFailed(Reason.WRONG_STATE, "the timeline of this node is not known yet")
    if facts.in_recovery:
        await _replayed_all(local)
    missing: list[str] = []
    async with local.connection(DATABASE) as connection:
        for start in range(0, len(op.receipts), _BATCH):
            asked = _as_json(op.receipts[start : start + _BATCH])
            found = connection.fetch(_MISSING, asked)
            rows = await bounded(connection, found, deadline_s=_DEADLINE_S, what="comparing receipts")
            missing += [row["id"] for row in rows]
    on_timeline = [receipt.insert_lsn for receipt in op.receipts if receipt.timeline == facts.timeline]
    result = ReceiptsFound(
        revision=revision,
        incarnation=op.incarnation,
        acknowledged=len(op.receipts),
        present=len(op.receipts) - len(missing),
        highest_lsn=max(on_timeline, default=0),
        missing=tuple(missing[:_MISSING_MAX]),
    )
    sentence = f"{result.present} of {result.acknowledged} acknowledged writes are here"
    return Outcome(sentence, {"receipts_found": result})


async def _replayed_all(local: LocalNode) -> None:
    """A restarted standby without an upstream replays what it has, and then waits for more."""

    async def done() -> bool:
        async with local.connection() as connection:
            return bool(await connection.fetchval(_WAITS))

    await until(done, every_ms=20, deadline_ms=_REPLAY_DEADLINE_MS, sentence="it still replays its WAL")


def _as_json(receipts: tuple[Receipt, ...]) -> str:
    wanted = [{"id": item.id, "version": item.version, "digest": item.digest} for item in receipts]
    return msgspec.json.encode(wanted).decode()
