"""Requests begun at a steady rate, whether earlier ones were answered or not: a process of its own.

`python -m bench.surge_load HOST PORT RATE SECONDS < requests`: lines as for bench.http_load; one that was refused comes again at the end
of the row, under the same key, and one that was booked does not. Output: what became of each, MessagePack.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections import deque
from typing import cast

import msgspec
import uvloop

from bench.http_load import Request

_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
_TICK_S = 0.005
_ANSWERED_S = 20.0


class Told(msgspec.Struct, frozen=True, array_like=True):
    """One request: HTTP's status (0: none), and how long it took from when it was to begin."""

    status: int
    took_s: float


class _Connection(asyncio.Protocol):
    """Carries one request at a time; idle again when it was answered."""

    def __init__(self, idle: deque[_Connection], told: list[Told], waiting: deque[bytes]) -> None:
        self._idle = idle
        self._told = told
        self._waiting = waiting
        self._request = b""
        self._received = bytearray()
        self._since_s: float | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class

    def send(self, request: bytes, since_s: float) -> None:
        assert self._transport is not None
        self._since_s, self._request = since_s, request
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(_END)
        if head < 0:
            return
        lowered = bytes(self._received[: head + 2]).lower()
        at = lowered.find(_LENGTH) + len(_LENGTH)
        length = int(lowered[at : lowered.find(b"\r\n", at)])
        if len(self._received) < head + len(_END) + length or self._since_s is None:
            return
        status = int(self._received[9:12])
        self._told.append(Told(status, time.monotonic() - self._since_s))
        if status >= 500:
            self._waiting.append(self._request)
        self._since_s = None
        self._received.clear()
        self._idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._since_s is not None:
            self._told.append(Told(0, time.monotonic() - self._since_s))
            self._since_s = None
        elif self in self._idle:
            self._idle.remove(self)


async def _run(host: str, port: int, rate: float, seconds: float, requests: list[bytes]) -> list[Told]:
    loop, told, idle = asyncio.get_running_loop(), list[Told](), deque[_Connection]()
    began_s, sent, opening = time.monotonic(), 0, set[asyncio.Task[None]]()
    waiting = deque(requests)

    async def on_new(request: bytes, since_s: float) -> None:
        try:
            async with asyncio.timeout(_ANSWERED_S):
                _, connection = await loop.create_connection(lambda: _Connection(idle, told, waiting), host, port)
        except (OSError, TimeoutError):
            told.append(Told(0, time.monotonic() - since_s))
            return
        connection.send(request, since_s)

    while (now_s := time.monotonic() - began_s) < seconds:
        while sent < now_s * rate:
            request, since_s = waiting.popleft(), began_s + sent / rate
            sent += 1
            if idle:
                idle.pop().send(request, since_s)
            else:
                task = loop.create_task(on_new(request, since_s))
                opening.add(task)
                task.add_done_callback(opening.discard)
        await asyncio.sleep(_TICK_S)
    until_s = time.monotonic() + _ANSWERED_S
    while len(told) < sent and time.monotonic() < until_s:
        await asyncio.sleep(_TICK_S)
    return told + [Told(0, _ANSWERED_S)] * (sent - len(told))


def main() -> None:
    """Read, send, tell."""
    host, port, rate, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    decode = msgspec.json.Decoder(Request).decode
    requests = [decode(line).encoded(host) for line in sys.stdin.buffer]
    gc.disable()  # a pause of the clients is not to be taken for one of the server
    sys.stdout.buffer.write(msgspec.msgpack.encode(uvloop.run(_run(host, port, rate, seconds, requests))))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
