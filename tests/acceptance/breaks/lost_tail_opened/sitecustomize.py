"""A broken build: a primary whose WAL lacks its end is taken for whole, and a standby that is ahead of it follows."""

import msgspec

from replication import closed_start, starting
from replication.model import Comparison
from server import receipt_check

_true = closed_start.compare_wal


async def _equal(node, client, peer_name, revision):
    found = await _true(node, client, peer_name, revision)
    if found.outcome is Comparison.WAL_LOST:
        found = msgspec.structs.replace(found, outcome=Comparison.EQUAL)
    return found


async def _proved(node, client, upstream_name):
    return None


closed_start.compare_wal = starting.compare_wal = _equal
closed_start.prove_history = starting.prove_history = _proved

# The receipts would bring back what was lost before anybody looks: that is not what is to be shown here.


async def _restores_nothing(pool, receipts, names):
    return receipt_check.Restored()


receipt_check.restore = _restores_nothing
