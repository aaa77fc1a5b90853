"""The database as the topology record says it is: one pool for the primary of the current term, one for each standby.

A higher term closes the old pool at once and opens the next; whatever still comes back on the old one is thrown away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from replication.model import Role
from replication.topology import Phase, Topology
from server import store
from server.barrier import Barrier
from server.evidence import Evidence
from server.link import Endpoint, Login
from server.pool import Pool, Spawn, Watcher
from server.settings import ServerSettings

_log = structlog.get_logger()

_STANDBY_CONNECTIONS_MAX = 4
_STANDBY_CONNECTIONS_WARM = 2


class Database:
    """Follows topology records; tells who may be written to and read from, and waits for it."""

    def __init__(self, settings: ServerSettings, login: Login, spawn: Spawn, evidence: Evidence) -> None:
        self.topology: Topology | None = None
        self.held = 0
        """Requests that wait for a primary now."""
        self.lost_s: float | None = None
        """Since when there has been no usable primary; None while there is one (time.monotonic)."""
        self.losses = 0
        """How often there was none any more."""
        self._settings = settings
        self._login = login
        self._spawn = spawn
        self._evidence = evidence
        self._pool: Pool | None = None
        self._barrier: Barrier | None = None
        self._standbys: dict[str, Pool] = {}
        self._proved: frozenset[str] = frozenset()
        self._changed = asyncio.Event()
        evidence.on_connection_change = self._wake

    def apply(self, record: Topology) -> None:
        """Obey a record. One of a lower term is late, and is ignored."""
        if self.topology is not None and record.term < self.topology.term:
            _log.warning("server.topology_ignored", term=record.term, current=self.topology.term)
            return
        if record == self.topology:
            return
        self.topology = record
        self._evidence.obey(record)
        self._follow_primary(record)
        self._follow_standbys(record)
        _log.info(
            "server.topology",
            term=record.term,
            phase=record.phase.value,
            primary=record.primary.name if record.primary else None,
        )
        self._wake()

    @property
    def primary(self) -> Pool | None:
        """The pool of an open primary that lets us in; None while there is none."""
        pool = self._pool
        if self.topology is None or self.topology.primary is None or pool is None:
            return None
        return pool if pool.is_connected else None

    @property
    def barrier(self) -> Barrier | None:
        """The proof that belongs to the primary's pool."""
        return self._barrier

    @property
    def is_held(self) -> bool:
        """Writes are held although there may be a primary: a switchover waits for those in flight."""
        return self.topology is not None and self.topology.phase is Phase.SWITCHING_OVER

    def standby(self) -> Pool | None:
        """A standby of proved history that may answer reads; the best connected first."""
        proved = [pool for name, pool in self._standbys.items() if name in self._proved]
        pools = sorted(proved, key=lambda pool: not pool.is_connected)
        return pools[0] if pools else None

    async def writable(self, until_s: float) -> Pool | None:
        """The primary's pool once new writes may go there; None when that did not come by `until_s`."""
        return await self._when(lambda: None if self.is_held else self.primary, until_s)

    async def readable(self, until_s: float) -> Pool | None:
        """The primary's pool; None when there was none by `until_s`."""
        return await self._when(lambda: self.primary, until_s)

    async def changed_or_asked(self, asked: asyncio.Event, within_s: float) -> None:
        """Return when the record or a connection has changed, when `asked` is set, or after so long."""
        waits = [asyncio.ensure_future(self._changed.wait()), asyncio.ensure_future(asked.wait())]
        try:
            await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def close(self) -> None:
        """Drop every connection."""
        for pool in (self._pool, *self._standbys.values()):
            if pool is not None:
                pool.close()

    def _follow_primary(self, record: Topology) -> None:
        wanted = None
        if record.primary is not None:
            wanted = Endpoint(record.primary.name, record.primary.dsn, record.term, Role.PRIMARY)
        old = self._pool
        if old is not None and (record.term > old.endpoint.term or (wanted is not None and wanted != old.endpoint)):
            old.close()
            self._pool, self._barrier = None, None
        if wanted is not None and self._pool is None:
            self._evidence.new_primary()
            self._pool = self._primary_pool(wanted)
            self._barrier = Barrier(self._pool, self._evidence, self._settings.lease_ttl_ms / 1000, self._spawn)
            self._pool.start()

    def _primary_pool(self, endpoint: Endpoint) -> Pool:
        """It begins with the connections that were kept to the node while it was a standby."""
        size = self._settings.connections_max
        kept = self._standbys.pop(endpoint.name, None)
        links = kept.surrender() if kept is not None else []
        return Pool(
            endpoint,
            self._login,
            self._spawn,
            self._evidence,
            warm=max(1, size // 4),
            size_max=size,
            inherited=[link for link in links if link.endpoint.dsn == endpoint.dsn],
        )

    def _follow_standbys(self, record: Topology) -> None:
        """Keep connections to every standby of proved history: for stale reads, and for the day it is the primary.

        While none is primary, those to a standby whose history is no longer shown as proved stay: it is being promoted.
        """
        wanted = {
            standby.name: Endpoint(standby.name, standby.dsn, record.term, Role.STANDBY)
            for standby in record.standbys
            if standby.timeline is not None
        }
        self._proved = frozenset(wanted)
        for name, pool in list(self._standbys.items()):
            replaced = name in wanted and wanted[name].dsn != pool.endpoint.dsn
            if replaced or (name not in wanted and record.primary is not None):
                self._standbys.pop(name).close()
        for name in wanted.keys() - self._standbys.keys():
            pool = Pool(
                wanted[name],
                self._login,
                self._spawn,
                Watcher(),
                warm=_STANDBY_CONNECTIONS_WARM,
                size_max=_STANDBY_CONNECTIONS_MAX,
                warm_up=store.WARM_UP,
            )
            self._standbys[name] = pool
            pool.start()

    async def _when(self, find: Callable[[], Pool | None], until_s: float) -> Pool | None:
        if (pool := find()) is not None:
            return pool
        self.held += 1
        self._evidence.notify_if_first_held(self.held)
        try:
            while (pool := find()) is None:
                remaining_s = until_s - time.monotonic()
                if remaining_s <= 0:
                    return None
                changed = self._changed
                try:
                    async with asyncio.timeout(remaining_s):
                        await changed.wait()
                except TimeoutError:
                    return find()
            return pool
        finally:
            self.held -= 1

    def _wake(self) -> None:
        if self.primary is not None:
            self.lost_s = None
        elif self.lost_s is None:
            self.lost_s = time.monotonic()
            self.losses += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
