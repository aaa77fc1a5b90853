"""Who looked at what: written soon after the answer, many rows at once. What changes something is audited in its own transaction.

Rows wait in memory until a primary takes them, also through a failover; an end of the process that nobody announced loses
those that wait.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import msgspec
import structlog

from server.errors import Refusal
from server.identity import uuid7

_log = structlog.get_logger()

_EVERY_S = 0.5
_WRITE_S = 2.0
_AT_ONCE_MAX = 1_000
KEPT_MAX = 50_000


class Access(msgspec.Struct, frozen=True):
    """One row of audit_event. `action`: R for one resource, E for a search (http://hl7.org/fhir/audit-event-action)."""

    id: uuid.UUID
    at: datetime
    agent: str
    action: str
    operation: str
    entity: str
    patient: str | None


Write = Callable[[tuple[object, ...], float], Awaitable[object]]
"""Columns of some rows, and until when (time.monotonic). Raises Refusal while no primary takes them."""


class Audit:
    """`note` costs nothing and never waits; `run` writes."""

    def __init__(self, write: Write) -> None:
        self.dropped = 0
        self._write = write
        self._waiting: deque[Access] = deque()
        self._turn = asyncio.Lock()

    def note(self, agent: str, operation: str, entity: str, patient: str | None) -> None:
        """Somebody was shown this. `operation`: a FHIR interaction, such as read or search-type."""
        if len(self._waiting) >= KEPT_MAX:
            if self.dropped == 0:
                _log.error("server.audit_full", kept=KEPT_MAX)
            self.dropped += 1
            return
        action = "E" if operation == "search-type" else "R"
        self._waiting.append(Access(uuid7(), datetime.now(UTC), agent, action, operation, entity, patient))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.flush(_WRITE_S)

    async def flush(self, within_s: float) -> None:
        """Write everything that waits, as long as a primary takes it. A row is written once, however often it is tried."""
        async with self._turn:  # the last flush at the end meets the one that is under way
            await self._flush(within_s)

    async def _flush(self, within_s: float) -> None:
        while self._waiting:
            some = [self._waiting[n] for n in range(min(len(self._waiting), _AT_ONCE_MAX))]
            columns = tuple([getattr(one, name) for one in some] for name in Access.__struct_fields__)
            try:
                await self._write(columns, time.monotonic() + within_s)
            except Refusal:
                return
            for _ in some:
                self._waiting.popleft()
