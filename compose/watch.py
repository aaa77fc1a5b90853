"""What `locum up` learns over HTTP for the person in front of it: when bookings work, and who is primary."""

from __future__ import annotations

import contextlib
from contextlib import aclosing

import aiohttp
import msgspec
from tenacity import RetryError

from compose.progress import Progress
from compose.retries import follow_stream, poll_until_true
from replication import topology
from replication.wire.errors import WireError
from replication.wire.http import get_bytes, new_session
from replication.wire.sse import subscribe

_ASK_MS = 2_000
_TELL_EVERY_MS = 15_000
_STREAM_IDLE_MS = 5_000
_STREAM_AWAY_MS = 3_600_000


class ClusterGlance(msgspec.Struct, frozen=True):
    """The few words of GET /v1/cluster that `up` shows while it waits."""

    phase: str
    next_step: str | None = None


async def until_bookings_work(server: str, controller: str, progress: Progress) -> None:
    """Return once the server's /readyz says 200; every 15 s tell what the controller says meanwhile."""
    async with new_session() as session:
        while True:
            try:
                await poll_until_true(_TELL_EVERY_MS)(_is_ready, session, server)
            except RetryError:
                glance = await _glance(session, controller)
                progress.waiting(glance.phase if glance else "the controller does not answer", glance)
            else:
                return


async def watch_primary(controller: str, progress: Progress) -> None:
    """Tell every change of phase and primary, until cancelled."""
    async with new_session() as session:
        while True:
            with contextlib.suppress(WireError):
                await follow_stream(_STREAM_AWAY_MS)(_follow, session, controller, progress)


async def _follow(session: aiohttp.ClientSession, controller: str, progress: Progress) -> None:
    async with aclosing(subscribe(session, f"{controller}/v1/topology", idle_ms=_STREAM_IDLE_MS)) as events:
        async for event in events:
            if event.event == "topology":
                progress.topology(topology.decode(event.data))


async def _is_ready(session: aiohttp.ClientSession, server: str) -> bool:
    try:
        status, _body = await get_bytes(session, f"{server}/readyz", deadline_ms=_ASK_MS)
    except WireError:
        return False
    return status == 200


async def _glance(session: aiohttp.ClientSession, controller: str) -> ClusterGlance | None:
    try:
        _status, body = await get_bytes(session, f"{controller}/v1/cluster", deadline_ms=_ASK_MS)
        return msgspec.json.decode(body, type=ClusterGlance)
    except (WireError, msgspec.DecodeError):
        return None
