"""Seeded clients: they find, hold, book, move, cancel, read, send again what was answered, and hang up in the middle.

Open loop: an operation begins when its time has come, whether earlier ones were answered or not, so that a slow answer does
not hide those that would have come after it. The seed decides what is done when (plan.py); what it is done to is chosen by
the seed too, among what has been acknowledged by then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import NamedTuple

import aiohttp
import msgspec

from failover.drill.clinic import Answer, Clinic, Json, Proposal, appointment_in, facts_of, moved
from failover.drill.history import Do, Facts, HistoryWriter, Operation, Outcome
from failover.drill.plan import Planned, for_run, plan

DEADLINE_S = 30.0
"""A frontend that has waited for so long gives up."""
_HANGS_UP_S = 0.03
_CLIENTS = 8
_CONFIRM = ":confirm"
_LOOKS_BACK = 400


class _Known(NamedTuple):
    appointment: str
    resource: Json


class _Try(NamedTuple):
    """A request to be sent: what it is for, and how it is sent with some deadline."""

    do: Do
    client: int
    key: str | None
    asked: Facts | None
    appointment: str | None
    send: Callable[[float], Awaitable[Answer]]


class Workload:
    """Runs a plan against one server until `stop`. `history` gets each operation when it ends; `run` tells the idempotency keys
    of this run from those of others with the same seed."""

    def __init__(
        self,
        server: str,
        proposals: Sequence[Proposal],
        history: HistoryWriter,
        *,
        seed: int,
        rate: float,
        run: str = "",
    ) -> None:
        self.operations: list[Operation] = []
        self._plan = plan(seed)
        self._run = run
        self._server = server
        self._proposals = list(proposals)
        Random(seed).shuffle(self._proposals)  # noqa: S311  to be repeatable, not secret
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
                group.create_task(self._do(clinic, for_run(planned, self._run)))

    async def _until(self, moment_s: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, moment_s - time.monotonic())):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _do(self, clinic: Clinic, planned: Planned) -> None:
        if planned.do is Do.FIND:
            await self._ask(planned, _Try(Do.FIND, _client(planned), None, None, None, clinic.find))
        elif planned.do in (Do.BOOK, Do.HOLD) or not self._known:
            if not self._proposals:
                self._ran_out = True
                return
            proposal = self._proposals.pop()
            await (self._hold if planned.do is Do.HOLD else self._book)(clinic, planned, proposal)
        elif planned.do is Do.READ:
            known = self._known[planned.choice % len(self._known)]
            read = _Try(
                Do.READ, _client(planned), None, None, known.appointment, lambda s: clinic.read(known.appointment, s)
            )
            await self._ask(planned, read)
        else:
            known = self._known.pop(planned.choice % len(self._known))
            await (self._move if planned.do is Do.MOVE else self._cancel)(clinic, planned, known)

    async def _book(self, clinic: Clinic, planned: Planned, proposal: Proposal) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._book_one(clinic, planned, proposal))
            if planned.rival is not None:
                rival = planned._replace(key=planned.rival, again=False, hangs_up=False, choice=planned.choice + 1)
                group.create_task(self._book_one(clinic, rival, proposal.for_another()))

    async def _book_one(self, clinic: Clinic, planned: Planned, proposal: Proposal) -> None:
        wanted = _Try(
            Do.BOOK,
            _client(planned),
            planned.key,
            proposal.asked(planned.comment),
            None,
            lambda s: clinic.book(proposal, planned.key, s, planned.comment),
        )
        for turn in range(2 if planned.again else 1):
            resource = await self._ask(planned, wanted)
            if resource is not None and turn == 0:
                self._known.append(_Known(resource["id"], resource))

    async def _hold(self, clinic: Clinic, planned: Planned, proposal: Proposal) -> None:
        """A hold, and then the booking of what is held."""
        asked = msgspec.structs.replace(proposal.asked(None), status="pending")
        hold = _Try(
            Do.HOLD, _client(planned), planned.key, asked, None, lambda s: clinic.hold(proposal, planned.key, s)
        )
        held = await self._ask(planned, hold)
        if held is None:
            return
        key = planned.key + _CONFIRM
        wanted = {**held, "status": "booked"}
        confirm = _Try(
            Do.BOOK,
            _client(planned),
            key,
            msgspec.structs.replace(facts_of(wanted), version=facts_of(held).version + 1),
            held["id"],
            lambda s: clinic.change({**held, "status": "pending"}, key, s),
        )
        resource = await self._ask(planned, confirm)
        if resource is not None:
            self._known.append(_Known(resource["id"], resource))

    async def _move(self, clinic: Clinic, planned: Planned, known: _Known) -> None:
        facts = facts_of(known.resource)
        proposal = self._of_same_practitioner(facts.practitioner)
        if proposal is None:
            self._known.append(known)
            return
        asked = msgspec.structs.replace(proposal.asked(None), patient=facts.patient, comment=facts.comment)
        changed = await self._change(clinic, planned, known, moved(known.resource, proposal), asked)
        if changed is not None:
            self._known.append(_Known(changed["id"], changed))

    async def _cancel(self, clinic: Clinic, planned: Planned, known: _Known) -> None:
        cancelled = {**known.resource, "status": "cancelled"}
        await self._change(clinic, planned, known, cancelled, facts_of(cancelled))

    async def _change(
        self, clinic: Clinic, planned: Planned, known: _Known, resource: Json, asked: Facts
    ) -> Json | None:
        wanted = _Try(
            planned.do,
            _client(planned),
            planned.key,
            msgspec.structs.replace(asked, version=facts_of(known.resource).version + 1),
            known.appointment,
            lambda s: clinic.change(resource, planned.key, s),
        )
        return await self._ask(planned, wanted)

    def _of_same_practitioner(self, practitioner: str) -> Proposal | None:
        """A free slot of the same person, taken from those that are left."""
        for back, proposal in enumerate(reversed(self._proposals[-_LOOKS_BACK:]), 1):
            if proposal.practitioner == practitioner:
                return self._proposals.pop(-back)
        return None

    async def _ask(self, planned: Planned, wanted: _Try) -> Json | None:
        """Send it, twice when the client hangs up, and note how it ended; the appointment of an ok answer."""
        began_s = time.monotonic()
        answer, error = None, None
        try:
            if planned.hangs_up and wanted.key is not None:
                await _hung_up(wanted.send(_HANGS_UP_S))
            answer = await wanted.send(DEADLINE_S)
        except (aiohttp.ClientError, TimeoutError) as caught:
            error = repr(caught)
        outcome = outcome_of(wanted.do, answer)
        is_shown = answer is not None and outcome is Outcome.OK and wanted.do is not Do.FIND
        resource = appointment_in(answer) if answer is not None and is_shown else None
        operation = Operation(
            number=self._number,
            client=wanted.client,
            do=wanted.do,
            began_s=began_s,
            ended_s=time.monotonic() if answer is not None else None,
            outcome=outcome,
            key=wanted.key,
            appointment=resource["id"] if resource is not None else wanted.appointment,
            asked=wanted.asked,
            found=facts_of(resource) if resource is not None else None,
            stale_s=answer.stale_s if answer is not None else None,
            status=answer.status if answer is not None else None,
            error=error if error is not None else _complaint(answer, outcome),
        )
        self._number += 1
        self.operations.append(operation)
        self._history.append(operation)
        return resource


def _client(planned: Planned) -> int:
    return planned.choice % _CLIENTS


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
