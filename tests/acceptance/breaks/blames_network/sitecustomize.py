"""A broken build: whatever has happened, the network is to blame."""

import msgspec

from failover.core import diagnose
from replication.model import Cause, FaultKind

_true = diagnose.diagnose_primary


def _network(context):
    verdict = _true(context)
    if verdict is None:
        return None
    return msgspec.structs.replace(verdict, cause=Cause.NETWORK, kind=FaultKind.UNREACHABLE)


diagnose.diagnose_primary = _network
