"""The few FHIR shapes that a patient's frontend needs: find a proposal, book it, read what came back."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import aiohttp
import msgspec

Json = dict[str, Any]


class Proposal(msgspec.Struct, frozen=True):
    """A proposed appointment of $find: free when it was found. `start` and `end` as the server wrote them."""

    id: str
    start: str
    end: str
    practitioner: str
    location: str | None

    @property
    def patient(self) -> str:
        """A patient who sees only this practitioner, so that no two of their appointments overlap."""
        return f"of-{self.practitioner}"


def book_url(server: str) -> str:
    return f"{server}/fhir/Appointment/$book"


def book_body(proposal: str, patient: str) -> Json:
    """Parameters for a new appointment from a proposal."""
    return parameters(
        {"name": "appointment-reference", "valueReference": {"reference": f"Appointment/{proposal}"}},
        {"name": "patient-resource", "resource": {"resourceType": "Patient", "id": patient}},
    )


def change_body(appointment: Json) -> Json:
    """Parameters that change or cancel an appointment by its resource."""
    return parameters({"name": "appointment-resource", "resource": appointment})


def parameters(*items: Json) -> Json:
    return {"resourceType": "Parameters", "parameter": list(items)}


def booked(bundle: Json) -> Json:
    """The one Appointment of an answer of $book."""
    (appointment,) = [
        entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == "Appointment"
    ]
    assert isinstance(appointment, dict)
    return appointment


def participant(appointment: Json, kind: str) -> str | None:
    """The id of the participant of one kind (Patient, Practitioner, Location); None when there is none."""
    for item in appointment["participant"]:
        reference = str(item.get("actor", {}).get("reference", ""))
        if reference.startswith(f"{kind}/"):
            return reference.removeprefix(f"{kind}/")
    return None


async def find(session: aiohttp.ClientSession, server: str, start: str, end: str) -> list[Proposal]:
    """Every proposal between two instants."""
    body = parameters({"name": "start", "valueDateTime": start}, {"name": "end", "valueDateTime": end})
    async with session.post(f"{server}/fhir/Appointment/$find", json=body) as answer:
        assert answer.status == 200, await answer.text()
        bundle = await answer.json(content_type=None)
    return [_proposal(entry["resource"]) for entry in bundle.get("entry", [])]


async def find_days(session: aiohttp.ClientSession, server: str, days: range) -> list[Proposal]:
    """The proposals of whole days from now on, day by day; day 0 begins in an hour."""
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(hours=1)
    found: dict[str, Proposal] = {}
    for day in days:
        begin = now + datetime.timedelta(days=day)
        for proposal in await find(
            session, server, begin.isoformat(), (begin + datetime.timedelta(days=1)).isoformat()
        ):
            found[proposal.id] = proposal
    return list(found.values())


Proposals = Iterator[Proposal]


async def endless(session: aiohttp.ClientSession, server: str) -> Proposals:
    """All proposals of the clinic as an iterator, for a workload that takes as many as it needs."""
    return iter(await find_days(session, server, range(13)))


def _proposal(appointment: Json) -> Proposal:
    practitioner = participant(appointment, "Practitioner")
    assert practitioner is not None
    return Proposal(
        appointment["id"], appointment["start"], appointment["end"], practitioner, participant(appointment, "Location")
    )
