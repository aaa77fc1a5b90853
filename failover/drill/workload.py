"""Seeded clients: they book, cancel, read, send again what was answered, and hang up in the middle, at a steady rate.

Open loop: an operation begins when its time has come, whether earlier ones were answered or not, so that a slow answer does
not hide those that would have come after it. The seed decides what is done when; what it is done to is chosen by the seed
too, among what has been acknowledged by then.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Sequence
from random import Random
from typing import NamedTuple

import aiohttp
import msgspec

from failover.drill.clinic import Answer, Clinic, Json, Proposal, appointment_in, facts_of
from failover.drill.history import Do, Facts, HistoryWriter, Operation, Outcome

DEADLINE_S = 30.0
"""A frontend that has waited for so long gives up."""
_HANGS_UP_S = 0.03
_KINDS = (Do.BOOK, Do.READ, Do.CANCEL)
_WEIGHTS = (70, 18, 12)
_AGAIN, _HANG_UP = 0.05, 0.05


class Planned(NamedTuple):
    """One operation of the plan. `choice` chooses among what there is; `again`: the same request is sent once more after its
    answer; `hangs_up`: the client drops its first connection at once, and sends the same request again."""

    do: Do
    choice: int
    key: str
    again: bool
    hangs_up: bool


def plan(seed: int) -> list[Planned]:
    """The first hundred thousand operations of a seed."""
    random = Random(seed)  # noqa: S311  to be repeatable, not secret
    return [
        Planned(
            random.choices(_KINDS, _WEIGHTS)[0],
            random.randrange(1 << 30),
            str(uuid.UUID(int=random.getrandbits(128), version=4)),
            random.random() < _AGAIN,
            random.random() < _HANG_UP,
        )
        for _ in range(100_000)
    ]


class _Known(NamedTuple):
    appointment: str
    resource: Json


class Workload:
    """Runs a plan against one server until `stop`. `history` gets each operation when it ends."""

    def __init__(
        self, server: str, proposals: Sequence[Proposal], history: HistoryWriter, *, seed: int, rate: float
    ) -> None:
        self.operations: list[Operation] = []
        self._plan = plan(seed)
        self._server = server
        self._proposals = list(proposals)
        Random(seed).shuffle(self._proposals)  # noqa: S311  as above
        self._history = history
        self._interval_s = 1 / rate
        self._known: list[_Known] = []
        self._number = 0
        self._stopping = asyncio.Event()
        self._ran_out = False

    @property
    def acknowledged(self) -> int:
        """How many writes were promised so far."""
        return sum(operation.is_acknowledged_write for operation in self.operations)

    def stop(self) -> None:
        """Begin nothing more; `run` returns when every answer has come."""
        self._stopping.set()

    async def run(self) -> None:
        """Until `stop`, or until no slot is free any more."""
        began_s = time.monotonic()
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
            clinic = Clinic(session, self._server)
            for turn, planned in enumerate(self._plan):
                await self._until(began_s + turn * self._interval_s)
                if self._stopping.is_set() or self._ran_out:
                    return
                group.create_task(self._do(clinic, planned))

    async def _until(self, moment_s: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, moment_s - time.monotonic())):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _do(self, clinic: Clinic, planned: Planned) -> None:
        if planned.do is Do.BOOK or not self._known:
            if not self._proposals:
                self._ran_out = True
                return
            await self._book(clinic, planned, self._proposals.pop())
        elif planned.do is Do.READ:
            await self._read(clinic, self._known[planned.choice % len(self._known)])
        else:
            await self._cancel(clinic, planned, self._known.pop(planned.choice % len(self._known)))

    async def _book(self, clinic: Clinic, planned: Planned, proposal: Proposal) -> None:
        for _ in range(2 if planned.again else 1):
            began_s = time.monotonic()
            answer, error = None, None
            try:
                if planned.hangs_up:
                    await _hung_up(clinic.book(proposal, planned.key, _HANGS_UP_S))
                answer = await clinic.book(proposal, planned.key, DEADLINE_S)
            except (aiohttp.ClientError, TimeoutError) as caught:
                error = repr(caught)
            operation = self._note(Do.BOOK, began_s, answer, error, key=planned.key, asked=proposal.asked())
            resource = appointment_in(answer) if answer is not None else None
            if operation.outcome is Outcome.OK and resource is not None:
                known = _Known(resource["id"], resource)
                if known.appointment not in {item.appointment for item in self._known[-50:]}:
                    self._known.append(known)

    async def _cancel(self, clinic: Clinic, planned: Planned, known: _Known) -> None:
        resource = {**known.resource, "status": "cancelled"}
        facts = facts_of(known.resource)
        asked = msgspec.structs.replace(facts, status="cancelled", version=facts.version + 1)
        began_s = time.monotonic()
        answer, error = None, None
        try:
            if planned.hangs_up:
                await _hung_up(clinic.change(resource, planned.key, _HANGS_UP_S))
            answer = await clinic.change(resource, planned.key, DEADLINE_S)
        except (aiohttp.ClientError, TimeoutError) as caught:
            error = repr(caught)
        self._note(Do.CANCEL, began_s, answer, error, key=planned.key, asked=asked, appointment=known.appointment)

    async def _read(self, clinic: Clinic, known: _Known) -> None:
        began_s = time.monotonic()
        answer, error = None, None
        try:
            answer = await clinic.read(known.appointment, DEADLINE_S)
        except (aiohttp.ClientError, TimeoutError) as caught:
            error = repr(caught)
        self._note(Do.READ, began_s, answer, error, appointment=known.appointment)

    def _note(
        self,
        do: Do,
        began_s: float,
        answer: Answer | None,
        error: str | None,
        *,
        key: str | None = None,
        asked: Facts | None = None,
        appointment: str | None = None,
    ) -> Operation:
        outcome = outcome_of(do, answer)
        resource = appointment_in(answer) if answer is not None and outcome is Outcome.OK else None
        found = facts_of(resource) if resource is not None else None
        operation = Operation(
            number=self._number,
            client=0,
            do=do,
            began_s=began_s,
            ended_s=time.monotonic() if answer is not None else None,
            outcome=outcome,
            key=key,
            appointment=resource["id"] if resource is not None else appointment,
            asked=asked,
            found=found,
            stale_s=answer.stale_s if answer is not None else None,
            status=answer.status if answer is not None else None,
            error=error if error is not None else _complaint(answer, outcome),
        )
        self._number += 1
        self.operations.append(operation)
        self._history.append(operation)
        return operation


def outcome_of(do: Do, answer: Answer | None) -> Outcome:
    """No answer, or a server that cannot say: unknown. A read that is told that there is nothing is an answer."""
    if answer is None or answer.status >= 500:
        return Outcome.UNKNOWN
    if do is Do.READ and answer.status in (404, 410):
        return Outcome.OK
    return Outcome.OK if answer.status < 300 else Outcome.FAIL


def _complaint(answer: Answer | None, outcome: Outcome) -> str | None:
    if answer is None or outcome is Outcome.OK:
        return None
    issues = (answer.body or {}).get("issue", [{}])
    return str(issues[0].get("diagnostics", ""))[:300]


async def _hung_up(request: Awaitable[Answer]) -> None:
    """The client drops its connection; what becomes of the request it does not learn."""
    try:
        await request
    except (aiohttp.ClientError, TimeoutError):
        return
