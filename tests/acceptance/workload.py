"""Clients that book at a steady rate, and a history of what each was told.

Open loop: a booking is sent when its time has come, whether earlier ones were answered or not, so that a slow answer
does not hide the ones that would have come after it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import aiohttp
import msgspec

from tests.acceptance import fhir

_ANSWERED_S = 0.5


class Booking(msgspec.Struct, kw_only=True):
    """One booking as its client saw it. Times are of time.monotonic(); `status` None: no answer came."""

    key: str
    proposal: fhir.Proposal
    patient: str
    sent_s: float
    ended_s: float | None = None
    status: int | None = None
    appointment: str | None = None
    error: str | None = None

    @property
    def is_acknowledged(self) -> bool:
        """201: the server promised it."""
        return self.status == 201


class History(msgspec.Struct):
    """Every booking that was sent, in order."""

    bookings: list[Booking] = []

    @property
    def acknowledged(self) -> list[Booking]:
        """Those that got 201."""
        return [booking for booking in self.bookings if booking.is_acknowledged]

    @property
    def failed(self) -> list[Booking]:
        """Those that got anything else: an error, a refused connection, no answer in time."""
        return [booking for booking in self.bookings if not booking.is_acknowledged]

    def gap_ms(self, since_s: float, until_s: float | None = None) -> float:
        """The longest time between two acknowledgements that follow each other, from the last one before `since_s`."""
        ended = sorted(booking.ended_s for booking in self.acknowledged if booking.ended_s is not None)
        before = [moment for moment in ended if moment <= since_s][-1:]
        after = [moment for moment in ended if moment > since_s and (until_s is None or moment <= until_s)]
        moments = [*before, *after]
        assert len(moments) > 1, "no acknowledgements on both sides of the fault"
        return 1000 * max(later - earlier for earlier, later in pairwise(moments))

    def slowest_ms(self) -> float:
        """The longest time that a client waited for its 201."""
        return 1000 * max((item.ended_s or item.sent_s) - item.sent_s for item in self.acknowledged)


class Workload:
    """Books the given proposals one after the other, `rate` a second, until stopped."""

    def __init__(self, server: str, proposals: Iterator[fhir.Proposal], *, rate: float) -> None:
        self.history = History()
        self._server = server
        self._proposals = proposals
        self._interval_s = 1 / rate
        self._stopping = asyncio.Event()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60), timeout=aiohttp.ClientTimeout(total=40)
        )

    async def __aenter__(self) -> Workload:
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> History:
        """Send nothing more, wait for every answer that is still out, and return the history."""
        self._stopping.set()
        await self._running
        await self._session.close()
        return self.history

    async def until_acknowledged(self, count: int, deadline_s: float = 60) -> None:
        """Wait until `count` more bookings are acknowledged than now."""
        goal, until = len(self.history.acknowledged) + count, time.monotonic() + deadline_s
        while len(self.history.acknowledged) < goal:
            assert time.monotonic() < until, f"bookings do not go on: {self._last_errors()}"
            assert not self._running.done() or self._running.exception() is None, self._running
            await asyncio.sleep(0.01)

    async def until_caught_up(self, deadline_s: float = 60) -> None:
        """Wait until everything that was sent half a second ago or earlier has its answer: an outage is over for all."""
        until = time.monotonic() + deadline_s
        while self._is_behind():
            assert time.monotonic() < until, f"requests still wait: {self._last_errors()}"
            await asyncio.sleep(0.01)

    def _is_behind(self) -> bool:
        old_s = time.monotonic() - _ANSWERED_S
        return any(booking.ended_s is None and booking.sent_s < old_s for booking in self.history.bookings)

    async def _run(self) -> None:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, proposal in enumerate(self._proposals):
                wait_s = began + number * self._interval_s - time.monotonic()
                if wait_s > 0:
                    await _wait(self._stopping, wait_s)
                if self._stopping.is_set():
                    return
                key = str(uuid.uuid4())
                booking = Booking(key=key, proposal=proposal, patient=proposal.patient, sent_s=time.monotonic())
                self.history.bookings.append(booking)
                group.create_task(self._book(booking))
            raise AssertionError("the workload ran out of free slots; use a larger demo clinic")

    async def _book(self, booking: Booking) -> None:
        url, body = fhir.book_url(self._server), fhir.book_body(booking.proposal.id, booking.patient)
        headers = {"Idempotency-Key": booking.key, "Content-Type": "application/fhir+json"}
        try:
            async with self._session.post(url, data=msgspec.json.encode(body), headers=headers) as answer:
                content = await answer.read()
                booking.status = answer.status
        except (aiohttp.ClientError, TimeoutError) as error:
            booking.error = repr(error)
        else:
            self._note(booking, content)
        booking.ended_s = time.monotonic()

    def _note(self, booking: Booking, content: bytes) -> None:
        if booking.is_acknowledged:
            booking.appointment = fhir.booked(msgspec.json.decode(content))["id"]
        else:
            booking.error = content.decode(errors="replace")[:500]

    def _last_errors(self) -> list[Any]:
        return [(item.status, item.error) for item in self.history.failed[-3:]]


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
