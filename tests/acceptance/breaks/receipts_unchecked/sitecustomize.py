"""A broken build: whatever the receipts say, all of them are taken to be there."""

import msgspec

from replication import actions, check_receipts, runner
from replication.model import ReceiptCheck
from server import receipt_check

_agents = check_receipts.check_receipts
_servers = receipt_check.ReceiptChecker._check


async def _agent(local, op, revision):
    return await _agents(local, msgspec.structs.replace(op, receipts=()), revision)


async def _server(self, pool):
    found: ReceiptCheck = await _servers(self, pool)
    return msgspec.structs.replace(found, present=found.acknowledged, lost=0, missing=())


runner._PERFORMERS[actions.CheckReceipts] = _agent
receipt_check.ReceiptChecker._check = _server

# The receipts would bring back what was lost before anybody looks: that is not what is to be shown here.


async def _restores_nothing(pool, receipts, names):
    return receipt_check.Restored()


receipt_check.restore = _restores_nothing
