"""The proof that the primary we read from can still acknowledge writes (DESIGN section 4, reads and leases).

A primary that was superseded while nobody noticed cannot commit synchronously any more: its standby has gone. So a
read is answered only while a synchronous commit of our own, started less than `lease_ttl_ms` ago, has come back.
"""

from __future__ import annotations

import asyncio
import time

from server.errors import DatabaseConflict, NoConnection, TryAgain
from server.evidence import Evidence
from server.pool import Pool, Spawn

_RENEW_AFTER_S = 1.0


class Barrier:
    """Belongs to one pool, hence to one term. Bookings prove it as they go; idle, it makes a commit of its own."""

    def __init__(self, pool: Pool, evidence: Evidence, ttl_s: float, spawn: Spawn) -> None:
        self._pool = pool
        self._evidence = evidence
        self._ttl_s = ttl_s
        self._spawn = spawn
        self._beat: asyncio.Event | None = None

    @property
    def is_proved(self) -> bool:
        """A commit that was started within the lease has come back."""
        return self._age_s() < self._ttl_s

    def renew(self) -> None:
        """Begin a commit unless the last proof is fresh enough or one is under way. Does not wait."""
        if self._beat is None and self._age_s() > min(_RENEW_AFTER_S, self._ttl_s / 3) and not self._pool.is_closed:
            self._beat = asyncio.Event()
            self._spawn(self._run(self._beat))

    async def prove(self, until_s: float) -> None:
        """Return once it is proved. Raises NoConnection when that did not happen by `until_s` (time.monotonic)."""
        while not self.is_proved:
            self.renew()
            remaining_s = until_s - time.monotonic()
            if remaining_s <= 0 or self._beat is None:
                raise NoConnection(f"{self._pool.endpoint.name} did not commit in time: its answer is not given")
            try:
                async with asyncio.timeout(remaining_s):
                    await self._beat.wait()
            except TimeoutError:
                continue

    def _age_s(self) -> float:
        proved_s = self._pool.proved_s
        return float("inf") if proved_s is None else time.monotonic() - proved_s

    async def _run(self, beat: asyncio.Event) -> None:
        attempt = self._evidence.write_started()
        try:
            async with self._pool.link(self._ttl_s) as link:
                self._pool.proved(await link.ping(deadline_s=self._ttl_s))
        except (TryAgain, DatabaseConflict) as error:
            self._evidence.write_failed(attempt, error)
        else:
            self._evidence.write_returned(attempt)
        finally:
            self._beat = None
            beat.set()
