"""Server-sent events, both sides (WHATWG HTML, section 9.2). The client is ours: no kept library has one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

import aiohttp
from aiohttp import web
from aiohttp_sse import sse_response

from replication.wire.errors import WireError
from replication.wire.http import wire_error

_KEEPALIVE_S = 1.0
_SEND_TIMEOUT_S = 10.0
_QUEUE_EVENTS_MAX = 256
_LINE_BYTES_MAX = 4 * 1024 * 1024


class SseEvent(NamedTuple):
    event: str
    data: str


class EventHub:
    """Fan-out of events to any number of subscribers; the last event of each key is sent to late ones at once.

    A subscriber that falls more than 256 events behind is disconnected: it comes back and starts from the last ones.
    """

    def __init__(self) -> None:
        self._last: dict[str, SseEvent] = {}
        self._queues: set[asyncio.Queue[SseEvent | None]] = set()

    @property
    def subscribers(self) -> int:
        """How many are connected now."""
        return len(self._queues)

    def publish(self, event: str, data: bytes, *, key: str = "") -> None:
        """Send to all, and remember as the last event of `key`."""
        item = SseEvent(event, data.decode())
        self._last[key] = item
        for queue in list(self._queues):
            if queue.full():
                self._end(queue)
            else:
                queue.put_nowait(item)

    def close(self) -> None:
        """End every stream, at shutdown."""
        for queue in list(self._queues):
            self._end(queue)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one subscriber until it goes, or until `close`."""
        queue: asyncio.Queue[SseEvent | None] = asyncio.Queue(_QUEUE_EVENTS_MAX)
        for item in self._last.values():
            queue.put_nowait(item)
        self._queues.add(queue)
        try:
            async with sse_response(
                request, sep="\n", ping_interval=_KEEPALIVE_S, send_timeout=_SEND_TIMEOUT_S
            ) as response:
                await _forward(queue, response)
        finally:
            self._queues.discard(queue)
        return response

    def _end(self, queue: asyncio.Queue[SseEvent | None]) -> None:
        self._queues.discard(queue)
        while queue.full():
            queue.get_nowait()
        queue.put_nowait(None)


async def _forward(queue: asyncio.Queue[SseEvent | None], response: web.StreamResponse) -> None:
    while (item := await queue.get()) is not None:
        data = "".join(f"data: {line}\n" for line in item.data.splitlines() or [""])
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                await response.write(f"event: {item.event}\n{data}\n".encode())
        except (ConnectionError, RuntimeError, TimeoutError):
            return


async def subscribe(session: aiohttp.ClientSession, url: str, *, idle_ms: int) -> AsyncGenerator[SseEvent, None]:
    """The events of a stream, one by one.

    Raises WireError when it is refused, ends, or stays silent (not even a comment) for `idle_ms`.
    """
    idle_s = idle_ms / 1000
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=idle_s, sock_read=idle_s)
    try:
        async with session.get(
            url, timeout=timeout, headers={"Accept": "text/event-stream"}, read_bufsize=_LINE_BYTES_MAX
        ) as answer:
            if answer.status != 200:
                raise WireError(f"{url} answered {answer.status} instead of a stream of events", "error")
            async for event in _parse(answer.content):
                yield event
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise wire_error(error, url) from error
    raise WireError(f"the stream of {url} ended", "error")


async def _parse(content: aiohttp.StreamReader) -> AsyncIterator[SseEvent]:
    name, data = "message", list[str]()
    async for raw in content:
        line = raw.decode().rstrip("\r\n")
        if not line:
            if data:
                yield SseEvent(name, "\n".join(data))
            name, data = "message", []
        elif not line.startswith(":"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                name = value
            elif field == "data":
                data.append(value)
