"""One link: connections forwarded to a port of this machine, until the link is cut or frozen.

While it is open it is as transparent as a proxy can be: it listens only while its target listens, so that a connect to a
dead target is refused and not accepted; ends and resets are passed on; a half-closed connection stays half-closed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import structlog

from compose.layout import HOST
from compose.links import SLOW_MS, LinkSettings, LinkState
from compose.listener import Answer, Listener, is_listening, reset

_log = structlog.get_logger()

LOOK_EVERY_MS = 20
"""How often the target is looked at; it is also looked at whenever a connection to it ends."""
_CHUNK_BYTES = 65_536
_CONNECTIONS_MAX = 1_024


class Relay:
    """A link by name. Use `run` in a task group; `set_state` at any time while it runs."""

    def __init__(self, name: str, ports: LinkSettings) -> None:
        self.name = name
        self.ports = ports
        self.state = LinkState.OPEN
        self._to, self._from = asyncio.Event(), asyncio.Event()
        self._to.set()
        self._from.set()
        self._connections: set[asyncio.Task[None]] = set()
        self._listener: Listener | None = None
        self._group: asyncio.TaskGroup | None = None

    @property
    def connections(self) -> int:
        """How many are being forwarded, or held, now."""
        return len(self._connections)

    async def run(self) -> None:
        """Until cancelled; then every connection is reset. Raises OSError when its port is another's."""
        self._listener = Listener(HOST, self.ports.listen_port, self._accept)
        try:
            async with asyncio.TaskGroup() as self._group:
                while True:
                    self._settle()
                    await asyncio.sleep(LOOK_EVERY_MS / 1000)
        finally:
            self._listener.close()
            self._listener = None

    async def set_state(self, state: LinkState) -> None:
        """Returns when it is so: nothing more passes, or what was held is on its way."""
        _log.info("proxies.link", link=self.name, state=state.value, connections=self.connections)
        self.state = state
        _set(self._to, is_set=state not in (LinkState.FROZEN, LinkState.FROZEN_TO))
        _set(self._from, is_set=state not in (LinkState.FROZEN, LinkState.FROZEN_FROM))
        self._settle()
        if state is LinkState.CUT and self._connections:
            for connection in self._connections:
                connection.cancel()
            await asyncio.wait(set(self._connections))

    def _settle(self) -> None:
        if self._listener is not None:
            self._listener.answer(self._wanted())

    def _wanted(self) -> Answer:
        if self.state is LinkState.CUT:
            return Answer.REFUSE
        if self.state not in (LinkState.OPEN, LinkState.SLOW):
            return Answer.NOTHING
        return Answer.ACCEPT if is_listening(HOST, self.ports.target_port) else Answer.REFUSE

    def _accept(self, client: socket.socket) -> None:
        if self._group is None or len(self._connections) >= _CONNECTIONS_MAX:
            _log.warning("proxies.too_many_connections", link=self.name, limit=_CONNECTIONS_MAX)
            reset(client)
            return
        connection = self._group.create_task(self._forward(client), name=f"link-{self.name}")
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)
        connection.add_done_callback(lambda _: reset(client))  # one that was cancelled before it began closes nothing

    async def _forward(self, client: socket.socket) -> None:
        """One connection, to its end: closed when both sides have ended it, reset when one was, or when the link is cut."""
        target = socket.socket()
        target.setblocking(False)
        end: Callable[[socket.socket], None] = reset
        try:
            await self._to.wait()
            await self._from.wait()
            await asyncio.get_running_loop().sock_connect(target, (HOST, self.ports.target_port))
            for side in (client, target):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(client, target, self._to))
                both.create_task(self._pump(target, client, self._from))
            end = socket.socket.close
        except* OSError as errors:
            _log.debug("proxies.connection_reset", link=self.name, errors=[repr(error) for error in errors.exceptions])
        finally:
            end(client)
            end(target)
            self._settle()

    async def _pump(self, source: socket.socket, sink: socket.socket, flowing: asyncio.Event) -> None:
        """One direction, to its end, which is passed on. What was given to the kernel before a freeze still arrives, as a
        packet that was on its way does. Raises OSError when either side is gone."""
        loop = asyncio.get_running_loop()
        while True:
            await flowing.wait()
            chunk = await loop.sock_recv(source, _CHUNK_BYTES)
            if self.state is LinkState.SLOW:
                await asyncio.sleep(SLOW_MS / 1000)
            await flowing.wait()  # an end is news too
            if not chunk:
                break
            await loop.sock_sendall(sink, chunk)
        sink.shutdown(socket.SHUT_WR)


def _set(event: asyncio.Event, *, is_set: bool) -> None:
    if is_set:
        event.set()
    else:
        event.clear()
