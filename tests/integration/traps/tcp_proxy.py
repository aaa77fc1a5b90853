"""A TCP proxy that can freeze: it stops forwarding and closes nothing, like a network path that went without a FIN."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.nodes import HOST
from tests.ports import free_port

_CHUNK_BYTES = 65_536


class TcpProxy:
    """Listens on `port` and forwards to a port of this machine, until `freeze`."""

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self._target_port = target_port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: list[asyncio.StreamWriter] = []
        self._pumps: set[asyncio.Task[None]] = set()

    def freeze(self) -> None:
        """From now on no byte passes in either direction; connections stay, and new ones are accepted and say nothing."""
        self._flowing.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection from outside."""
        self._writers.append(writer)
        await self._flowing.wait()
        theirs, ours = await asyncio.open_connection(HOST, self._target_port)
        self._writers.append(ours)
        for source, sink in ((reader, ours), (theirs, writer)):
            pump = asyncio.create_task(self._pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    def close(self) -> None:
        """Drop every connection."""
        for pump in self._pumps:
            pump.cancel()
        for writer in self._writers:
            writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await source.read(_CHUNK_BYTES):
                await self._flowing.wait()
                sink.write(chunk)
                await sink.drain()
            await self._flowing.wait()  # an end is news too
            sink.close()


@asynccontextmanager
async def tcp_proxy(target_port: int) -> AsyncIterator[TcpProxy]:
    """A proxy that listens."""
    proxy = TcpProxy(target_port)
    server = await asyncio.start_server(proxy.serve, HOST, proxy.port)
    try:
        yield proxy
    finally:
        server.close()
        proxy.close()
