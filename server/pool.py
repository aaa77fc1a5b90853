"""The connections to one node in one term: opened in parallel, bounded, closed at once when the term is over.

A pool of its own, because asyncpg's resets a connection after each use (a round trip), sends a cancel when an acquirer
times out, and cannot be closed without waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import structlog

from server.errors import NoConnection, ServerError, Superseded, TryAgain
from server.link import CONNECT_ERRORS, Endpoint, Link, Login, admit, open_link
from server.retries import reconnecting

_log = structlog.get_logger()

_FIRST = 2
"""Opened before any other: right after a promotion, more backends starting at once would only delay the first commit."""
_SETTLED_AFTER_S = 0.15
"""The others follow this long after the first connection: those who waited for it have their answers by then."""

Spawn = Callable[[Coroutine[Any, Any, None]], object]


class Watcher:
    """Told what happens on a pool's connections; the base does nothing (standbys)."""

    def connected(self) -> None:
        """A connection was opened and checked."""

    def connect_failed(self, error: BaseException) -> None:
        """An attempt to connect failed."""

    def disconnected(self) -> None:
        """The other side ended a connection, idle or not."""


class Pool:
    """Hands out links of one endpoint. `warm`: how many are opened before anybody asks, each after the reads in
    `warm_up`; `inherited`: links to the same node that were opened while it was a standby."""

    def __init__(
        self,
        endpoint: Endpoint,
        login: Login,
        spawn: Spawn,
        watcher: Watcher,
        *,
        warm: int,
        size_max: int,
        warm_up: Sequence[str] = (),
        inherited: Sequence[Link] = (),
    ) -> None:
        self.endpoint = endpoint
        self.closing = asyncio.Event()
        self.proved_s: float | None = None
        """When the last synchronous commit that came back was started (time.monotonic)."""
        self._login = login
        self._spawn = spawn
        self._watcher = watcher
        self._warm = warm
        self._size_max = size_max
        self._warm_up = warm_up
        self._inherited = deque(inherited)
        self._idle: deque[Link] = deque()
        self._busy: set[Link] = set()
        self._opening = 0
        self._failing = False
        self._retrier: object | None = None
        self._is_settled = False
        self._settling = False
        self._waiters: deque[asyncio.Future[Link]] = deque()

    @property
    def is_closed(self) -> bool:
        """Its term is over: whatever still comes back is thrown away."""
        return self.closing.is_set()

    @property
    def is_connected(self) -> bool:
        """At least one connection is open."""
        return bool(self._idle or self._busy)

    @property
    def size(self) -> int:
        """How many connections are open."""
        return len(self._idle) + len(self._busy)

    def start(self) -> None:
        """Open the warm connections, in parallel."""
        self._grow()

    def surrender(self) -> list[Link]:
        """The idle links, which now belong to the caller; then the pool is closed."""
        links = [link for link in self._idle if link.is_open]
        for link in links:
            link.on_end = None
        self._idle.clear()
        self.close()
        return links

    @asynccontextmanager
    async def link(self, deadline_s: float) -> AsyncIterator[Link]:
        """A connection for one operation. Raises NoConnection, or Superseded when the pool was closed meanwhile."""
        link = await self._acquire(deadline_s)
        try:
            yield link
        except (ServerError, asyncpg.PostgresError) as error:
            if self.is_closed and not isinstance(error, TryAgain):
                raise Superseded(f"term {self.endpoint.term} of {self.endpoint.name} is over") from error
            raise
        finally:
            self._release(link)
        if self.is_closed:
            raise Superseded(f"term {self.endpoint.term} of {self.endpoint.name} is over")

    def proved(self, started_s: float) -> None:
        """A synchronous commit that was started then has come back."""
        if not self.is_closed and (self.proved_s is None or started_s > self.proved_s):
            self.proved_s = started_s

    def close(self) -> None:
        """At once: no goodbye, no cancel. Operations under way end with ConnectionLost or Superseded."""
        self.closing.set()
        for link in (*self._idle, *self._busy, *self._inherited):
            link.terminate()
        self._idle.clear()
        self._inherited.clear()
        self._busy.clear()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(Superseded(f"term {self.endpoint.term} of {self.endpoint.name} is over"))

    async def _acquire(self, deadline_s: float) -> Link:
        until = time.monotonic() + deadline_s
        while True:
            if self.is_closed:
                raise Superseded(f"term {self.endpoint.term} of {self.endpoint.name} is over")
            link = self._idle.pop() if self._idle else await self._wait(until)
            if link.is_open:
                self._busy.add(link)
                return link
            self._busy.discard(link)

    async def _wait(self, until: float) -> Link:
        waiter: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._grow()
        try:
            await asyncio.wait({waiter}, timeout=max(0.0, until - time.monotonic()))
        except asyncio.CancelledError:
            if waiter.done() and waiter.exception() is None:
                self._release(waiter.result())
            raise
        finally:
            if not waiter.done():
                waiter.cancel()
        if waiter.cancelled():
            raise NoConnection(f"no connection to {self.endpoint.name} became free in time")
        return waiter.result()

    def _release(self, link: Link) -> None:
        self._busy.discard(link)
        if self.is_closed or not link.is_open:
            link.terminate()
            self._grow()
        else:
            self._offer(link)

    def _offer(self, link: Link) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._busy.add(link)
                waiter.set_result(link)
                return
        self._idle.append(link)

    def _ended(self, link: Link) -> None:
        if link in self._idle:
            self._idle.remove(link)
        if not self.is_closed:
            self._watcher.disconnected()
            self._grow()

    def _grow(self) -> None:
        if self.is_closed:
            return
        waiting = sum(not waiter.done() for waiter in self._waiters)
        wanted = min(self._size_max, max(self._warm, len(self._busy) + waiting))
        if not self._is_settled:
            wanted = min(wanted, _FIRST)
        # while the node does not let us in, one attempt at a time is enough
        missing = 1 - self._opening if self._failing else wanted - self.size - self._opening
        for _ in range(missing if wanted > self.size else 0):
            self._opening += 1
            self._spawn(self._open())

    async def _open(self) -> None:
        mine = object()

        def may_retry() -> bool:
            # A node that does not let us in is most likely dead: crowds at its door only take time from its successor.
            self._retrier = self._retrier or mine
            return self._retrier is mine

        try:
            link: Link = await reconnecting(self.closing, CONNECT_ERRORS, may_retry)(self._attempt)
        except CONNECT_ERRORS:
            return  # closed while it tried, or another goes on trying
        finally:
            self._opening -= 1
            self._retrier = None if self._retrier is mine else self._retrier
        if self.is_closed:
            link.terminate()
            return
        self._failing = False
        link.on_end = self._ended
        self._offer(link)
        self._watcher.connected()
        self._grow()
        if not self._settling:
            self._settling = True
            self._spawn(self._settle())

    async def _settle(self) -> None:
        await asyncio.sleep(_SETTLED_AFTER_S)
        self._is_settled = True
        self._grow()

    async def _attempt(self) -> Link:
        while self._inherited:
            with contextlib.suppress(*CONNECT_ERRORS):
                link = self._inherited.popleft()
                await admit(link, self.endpoint)
                return link
        try:
            return await open_link(self.endpoint, self._login, self._warm_up)
        except CONNECT_ERRORS as error:
            if not self._failing and not self.is_closed:
                _log.info("server.connect_failed", node=self.endpoint.name, error=repr(error)[:200])
            self._failing = True
            if not self.is_closed:
                self._watcher.connect_failed(error)
            raise
