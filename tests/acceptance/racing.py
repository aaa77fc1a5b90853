"""Clients that all want the same few times, each for a patient of a few: practitioners, rooms, devices and patients are short.

What is taken is given back after a moment, so that it is fought for again. A client whose request fails sends it again with the
same key, as a frontend does; the history is the drill's, so that the drill's checker judges it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random

import aiohttp
import msgspec

from failover.drill.clinic import Answer, Clinic, Json, Proposal, appointment_in, facts_of
from failover.drill.history import Do, Facts, Operation
from failover.drill.workload import outcome_of

_GIVES_UP_S = 30.0
_PAUSE_S = 0.05
_KEEPS_S = (0.0, 0.6)
_KEPT_FOR_GOOD = 0.02


class Wanted(Proposal, frozen=True):
    """A time, for this patient."""

    who: str = ""

    @property
    def patient(self) -> str:
        return self.who


CLINIC = """
[[sites]]
id = "north"
name = "Clinic North"
timezone = "UTC"
"""
_PERSON = """
[[practitioners]]
id = "dr-{n:02d}"
given = "G"
family = "F{n}"
specialty_code = "394579002"
specialty = "Cardiology"
site = "north"
room_id = "room-{room}"
room = "Room {room}"
{device}
[[practitioners.availability]]
minutes = 30
"""


def clinic_file(people: int) -> str:
    """Two to a room, three to a device, and every fourth needs none."""
    return CLINIC + "".join(
        _PERSON.format(
            n=n, room=n // 2, device=f'device_id = "device-{n // 3}"\ndevice = "Device {n // 3}"' if n % 4 else ""
        )
        for n in range(people)
    )


class Race:
    """`run` so many clients over these times until `stop`. `answers`: how many of each status, 0 for none at all."""

    def __init__(self, server: str, proposals: Sequence[Proposal], patients: int, *, seed: int) -> None:
        self.operations: list[Operation] = []
        self.answers: Counter[int] = Counter()
        self._server = server
        self._proposals = proposals
        self._patients = [f"patient-{number}" for number in range(patients)]
        self._random = Random(seed)
        self._stopping = False

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopping = True

    @property
    def acknowledged(self) -> int:
        return sum(operation.is_acknowledged_write for operation in self.operations)

    async def run(self, clients: int) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
            clinic = Clinic(session, self._server)
            for number in range(clients):
                group.create_task(self._client(clinic, number))

    async def _client(self, clinic: Clinic, client: int) -> None:
        turn = 0
        while not self._stopping:
            turn += 1
            proposal, who = self._random.choice(self._proposals), self._random.choice(self._patients)
            wanted = Wanted(*(getattr(proposal, name) for name in Proposal.__struct_fields__), who=who)
            key = f"race-{client}-{turn}"
            made = await self._ask(client, Do.BOOK, key, wanted.asked(None), None, _book(clinic, wanted, key))
            if made is None or self._random.random() < _KEPT_FOR_GOOD:
                continue
            await asyncio.sleep(self._random.uniform(*_KEEPS_S))
            cancelled, key = {**made, "status": "cancelled"}, key + "-back"
            facts = facts_of(cancelled)
            asked = msgspec.structs.replace(facts, version=facts.version + 1)
            await self._ask(client, Do.CANCEL, key, asked, made["id"], _change(clinic, cancelled, key))

    async def _ask(
        self,
        client: int,
        do: Do,
        key: str,
        asked: Facts,
        appointment: str | None,
        send: Callable[[], Awaitable[Answer]],
    ) -> Json | None:
        """Until there is an answer that is one, with the same key; the appointment of it."""
        began_s, answer = time.monotonic(), None
        while time.monotonic() < began_s + _GIVES_UP_S:
            try:
                answer = await send()
                self.answers[answer.status] += 1
                if answer.status < 500:
                    break
            except (aiohttp.ClientError, TimeoutError):
                self.answers[0] += 1
            await asyncio.sleep(_PAUSE_S)
        outcome = outcome_of(do, answer)
        resource = appointment_in(answer) if answer is not None and answer.status < 300 else None
        self.operations.append(
            Operation(
                number=len(self.operations),
                client=client,
                do=do,
                began_s=began_s,
                ended_s=time.monotonic() if answer is not None else None,
                outcome=outcome,
                key=key,
                appointment=resource["id"] if resource is not None else appointment,
                asked=asked,
                found=facts_of(resource) if resource is not None else None,
                status=answer.status if answer is not None else None,
            )
        )
        return resource


def _book(clinic: Clinic, wanted: Wanted, key: str) -> Callable[[], Awaitable[Answer]]:
    return lambda: clinic.book(wanted, key, _GIVES_UP_S)


def _change(clinic: Clinic, resource: Json, key: str) -> Callable[[], Awaitable[Answer]]:
    return lambda: clinic.change(resource, key, _GIVES_UP_S)
