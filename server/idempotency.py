"""One key, one write: what makes two requests the same, and who waits for whom within this server.

Across servers, restarts and failovers the table `idempotency` decides (schema.sql); here two requests with one key
only stand in line, so that the second neither takes a connection nor is refused while the first is held.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from server.errors import Refusal

_RETRY_AFTER_S = 2


class Claim(msgspec.Struct, frozen=True):
    """The key under which a write happens once, and the digest of what it was asked for."""

    key: str
    digest: bytes


def digest(method: str, path: str, body: bytes) -> bytes:
    """What must be equal for two requests with one key to be the same one: method, path, body, byte by byte."""
    return hashlib.sha256(b"\0".join((method.encode(), path.encode(), body))).digest()


class InFlight:
    """The keys of requests that this server has not answered yet."""

    def __init__(self) -> None:
        self._keys: dict[str, tuple[bytes, asyncio.Event]] = {}

    @asynccontextmanager
    async def only(self, key: str, content: bytes, until_s: float) -> AsyncIterator[None]:
        """Be the only request with this key. Raises Refusal: 422 for other content, 503 when the first takes too long."""
        while (first := self._keys.get(key)) is not None:
            if first[0] != content:
                raise Refusal(
                    422,
                    "business-rule",
                    "this Idempotency-Key is in use by another request; use a new key",
                    detail="key-reused",
                )
            try:
                async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
                    await first[1].wait()
            except TimeoutError:
                raise Refusal(
                    503,
                    "transient",
                    "the first request with this Idempotency-Key is still under way; ask again",
                    retry_after_s=_RETRY_AFTER_S,
                ) from None
        done = asyncio.Event()
        self._keys[key] = (content, done)
        try:
            yield
        finally:
            del self._keys[key]
            done.set()
