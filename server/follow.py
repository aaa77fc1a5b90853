"""The controller's topology stream: followed for ever, on the last record while the controller is away."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from urllib.parse import quote

import aiohttp
import msgspec
import structlog

from replication import topology
from replication.wire.errors import WireError
from replication.wire.sse import subscribe
from server.database import Database
from server.retries import following

_log = structlog.get_logger()

_IDLE_MS = 5_000


async def follow(session: aiohttp.ClientSession, controller_url: str, name: str, database: Database) -> None:
    """Obey every record of the stream, until cancelled."""
    url = f"{controller_url}/v1/topology?server={quote(name)}"
    never = asyncio.Event()
    while True:
        # a stream that worked starts the pauses anew
        await following(never)(_once, session, url, database)


async def _once(session: aiohttp.ClientSession, url: str, database: Database) -> None:
    obeyed = False
    try:
        async with aclosing(subscribe(session, url, idle_ms=_IDLE_MS)) as events:
            async for event in events:
                if event.event == "topology":
                    obeyed = _obey(event.data, database) or obeyed
    except WireError as error:
        _log.info("server.controller_away", sentence=str(error))
        if not obeyed:
            raise


def _obey(data: str, database: Database) -> bool:
    try:
        record = topology.decode(data)
    except msgspec.DecodeError as error:
        _log.error("server.topology_unreadable", error=str(error))
        return False
    database.apply(record)
    return True
