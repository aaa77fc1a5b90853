"""The ordered end of `locum up`: server drained, controller, the primary's agent, the standby's, faulty disks, proxies.

Each agent stops its PostgreSQL when it gets SIGTERM. The primary goes first: its stop waits until the standby has
received everything, so the standby must still run, and so must the link between them.
"""

from __future__ import annotations

import msgspec

from compose.processes import Child
from compose.progress import Progress
from replication.wire.errors import WireError
from replication.wire.http import get_bytes, new_session

PATIENCE_MS = {"server": 25_000, "controller": 5_000, "agent": 60_000, "proxies": 5_000, "faultfs": 20_000}
_ASK_MS = 1_000


class _Primary(msgspec.Struct, frozen=True):
    primary: str | None = None


async def stop_in_order(children: dict[str, Child], controller: str, progress: Progress) -> bool:
    """Stop every child, one after the other. True when all ended by themselves within PATIENCE_MS."""
    primary = await _primary(controller)
    clean = True
    for name in stop_order(list(children), primary):
        kind = name.partition("-")[0]
        ended = await children[name].stop(patience_ms=PATIENCE_MS[kind])
        progress.stopped(name, ended)
        clean = clean and ended
    return clean


def stop_order(names: list[str], primary: str | None) -> list[str]:
    """Server, controller, the agent of `primary`, then the other agents by name, then the disks and the proxies."""
    rank = {"server": 0, "controller": 1, f"agent-{primary}": 2, "agent": 3, "faultfs": 4, "proxies": 5}
    return sorted(names, key=lambda name: (rank.get(name, rank.get(name.partition("-")[0], 9)), name))


async def _primary(controller: str) -> str | None:
    """The primary's name as the controller knows it; None when it cannot say."""
    async with new_session() as session:
        try:
            _status, body = await get_bytes(session, f"{controller}/v1/cluster", deadline_ms=_ASK_MS)
            return msgspec.json.decode(body, type=_Primary).primary
        except (WireError, msgspec.DecodeError):
            return None
