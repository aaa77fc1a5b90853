"""Requests over HTTP as fast as they are answered: a process of its own, so that the clients do not hold each other up.

`python -m bench.http_load HOST PORT CONNECTIONS SECONDS < requests`: each line of standard input is a JSON object {"path", "body",
"headers"}; each is sent once, in order, until they or the time run out. The last line of its output is a JSON object.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator
from statistics import quantiles
from typing import cast

import msgspec
import uvloop

_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


class Request(msgspec.Struct, frozen=True):
    """One POST."""

    path: str
    body: msgspec.Raw
    headers: dict[str, str] = {}

    def encoded(self, host: str) -> bytes:
        """As it goes over the wire."""
        body = bytes(self.body)
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {host}", "Content-Type: application/fhir+json"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


class Summary(msgspec.Struct, frozen=True):
    """What was answered, and how fast; latencies in ms."""

    answered: int
    seconds: float
    p50_ms: float
    p99_ms: float
    statuses: dict[str, int]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds


class _Load:
    def __init__(self, requests: Iterator[bytes], until_s: float) -> None:
        self.requests = requests
        self.until_s = until_s
        self.took_s: list[float] = []
        self.statuses: Counter[str] = Counter()

    def next(self) -> bytes | None:
        return None if time.monotonic() >= self.until_s else next(self.requests, None)


class _Client(asyncio.Protocol):
    """One connection: the next request when the last one was answered."""

    def __init__(self, load: _Load) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._load = load
        self._received = bytearray()
        self._sent_s = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(_END)
        if head < 0:
            return
        lowered = bytes(self._received[:head]).lower()
        at = lowered.find(_LENGTH) + len(_LENGTH)
        length = int(lowered[at : lowered.find(b"\r\n", at) if b"\r\n" in lowered[at:] else None])
        if len(self._received) < head + len(_END) + length:
            return
        self._load.took_s.append(time.monotonic() - self._sent_s)
        self._load.statuses[self._received[9:12].decode()] += 1
        del self._received[: head + len(_END) + length]
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(exc or ConnectionResetError("the server ended the connection"))

    def _send(self) -> None:
        request = self._load.next()
        assert self._transport is not None
        if request is None:
            if not self.ended.done():
                self.ended.set_result(None)
            self._transport.close()
            return
        self._sent_s = time.monotonic()
        self._transport.write(request)


async def _run(host: str, port: int, connections: int, seconds: float, requests: list[bytes]) -> Summary:
    loop, began_s = asyncio.get_running_loop(), time.monotonic()
    load = _Load(iter(requests), began_s + seconds)
    clients = [(await loop.create_connection(lambda: _Client(load), host, port))[1] for _ in range(connections)]
    await asyncio.gather(*(client.ended for client in clients))
    took = load.took_s
    return Summary(
        len(took),
        time.monotonic() - began_s,
        1000 * quantiles(took, n=100)[49],
        1000 * quantiles(took, n=100)[98],
        dict(load.statuses),
    )


def main() -> None:
    """Read, send, tell."""
    host, port, connections, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    decode = msgspec.json.Decoder(Request).decode
    requests = [decode(line).encoded(host) for line in sys.stdin.buffer]
    print(msgspec.json.encode(uvloop.run(_run(host, port, connections, seconds, requests))).decode())


if __name__ == "__main__":
    main()
