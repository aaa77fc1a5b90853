"""A patient's frontend, as a drill plays it: proposals, bookings, changes, reads over FHIR, and what each answer says."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import msgspec

from failover.drill.errors import ClusterAway
from failover.drill.history import Facts

Json = dict[str, Any]
_FHIR = "application/fhir+json"
_FIND_DEADLINE_S = 30.0


class Proposal(msgspec.Struct, frozen=True, order=True):
    """A free slot, as $find proposed it: when, with whom, where. `start` and `end` as the server wrote them."""

    start: str
    practitioner: str
    id: str
    end: str
    location: str | None
    device: str | None = None
    patient_prefix: str = "of"

    @property
    def patient(self) -> str:
        """A patient who sees only this practitioner, so that no two of their appointments overlap."""
        return f"{self.patient_prefix}-{self.practitioner}"

    def for_another(self) -> Proposal:
        """The same for another patient, who wants it too."""
        return msgspec.structs.replace(self, patient_prefix="rival")

    def asked(self, comment: str | None) -> Facts:
        """What a client that books it wants to be true."""
        return Facts(
            status="booked",
            start_s=seconds(self.start),
            end_s=seconds(self.end),
            practitioner=self.practitioner,
            patient=self.patient,
            location=self.location,
            device=self.device,
            comment=digest(comment),
        )


class Answer(msgspec.Struct, frozen=True):
    """One HTTP answer. `body` is None when it was no JSON object."""

    status: int
    body: Json | None
    stale_s: int | None = None


def digest(comment: str | None) -> str | None:
    """Twelve hexadecimal digits of SHA-256: enough to tell whether a long text came through."""
    return None if comment is None else hashlib.sha256(comment.encode()).hexdigest()[:12]


def seconds(instant: str) -> int:
    """ISO 8601 to seconds since 1970."""
    return round(datetime.fromisoformat(instant).timestamp())


class Clinic:
    """One server. Raises aiohttp.ClientError and TimeoutError where no answer came."""

    def __init__(self, session: aiohttp.ClientSession, server: str) -> None:
        self._session = session
        self._server = server.rstrip("/")

    async def proposals(self, days: int) -> list[Proposal]:
        """Every free slot from in an hour on, in order. Raises ClusterAway."""
        found: set[Proposal] = set()
        for day in range(days):
            answer = await self.find(_FIND_DEADLINE_S, day)
            if answer.status != 200 or answer.body is None:
                raise ClusterAway(f"$find was answered with {answer.status}: no workload can begin")
            found |= {_proposal(entry["resource"]) for entry in answer.body.get("entry", [])}
        return sorted(found)

    async def find(self, deadline_s: float, day: int = 0) -> Answer:
        """$find for one day, which begins in an hour and `day` days."""
        start = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1, days=day)
        body = _parameters(
            {"name": "start", "valueDateTime": start.isoformat()},
            {"name": "end", "valueDateTime": (start + timedelta(days=1)).isoformat()},
        )
        return await self._post("$find", body, None, deadline_s)

    async def book(self, proposal: Proposal, key: str, deadline_s: float, comment: str | None = None) -> Answer:
        """$book of a proposal."""
        said = [] if comment is None else [{"name": "comment", "valueString": comment}]
        return await self._post("$book", _parameters(*_wanted(proposal), *said), key, deadline_s)

    async def hold(self, proposal: Proposal, key: str, deadline_s: float) -> Answer:
        """$hold of a proposal."""
        return await self._post("$hold", _parameters(*_wanted(proposal)), key, deadline_s)

    async def change(self, resource: Json, key: str, deadline_s: float) -> Answer:
        """$book of a changed or cancelled appointment, as a whole resource."""
        return await self._post(
            "$book", _parameters({"name": "appointment-resource", "resource": resource}), key, deadline_s
        )

    async def read(self, appointment: str, deadline_s: float) -> Answer:
        """One appointment, as it is now."""
        url = f"{self._server}/fhir/Appointment/{appointment}"
        async with self._session.get(url, timeout=aiohttp.ClientTimeout(total=deadline_s)) as answer:
            return await _answer(answer)

    async def _post(self, operation: str, body: Json, key: str | None, deadline_s: float) -> Answer:
        headers = {"Content-Type": _FHIR} | ({"Idempotency-Key": f'"{key}"'} if key is not None else {})
        url = f"{self._server}/fhir/Appointment/{operation}"
        data, timeout = msgspec.json.encode(body), aiohttp.ClientTimeout(total=deadline_s)
        async with self._session.post(url, data=data, headers=headers, timeout=timeout) as answer:
            return await _answer(answer)


def moved(appointment: Json, proposal: Proposal) -> Json:
    """The same appointment at the time of a proposal of the same practitioner."""
    return {**appointment, "start": proposal.start, "end": proposal.end}


def appointment_in(answer: Answer) -> Json | None:
    """The one Appointment of an answer, alone or in a Bundle."""
    body = answer.body or {}
    if body.get("resourceType") == "Appointment":
        return body
    found = [entry.get("resource", {}) for entry in body.get("entry", [])]
    return next((resource for resource in found if resource.get("resourceType") == "Appointment"), None)


def facts_of(appointment: Json) -> Facts:
    """What an Appointment says. Raises KeyError, ValueError for one that says too little."""
    practitioner = _participant(appointment, "Practitioner")
    if practitioner is None:
        raise ValueError("an appointment with nobody")
    return Facts(
        status=appointment["status"],
        start_s=seconds(appointment["start"]),
        end_s=seconds(appointment["end"]),
        practitioner=practitioner,
        patient=_participant(appointment, "Patient"),
        location=_participant(appointment, "Location"),
        device=_participant(appointment, "Device"),
        version=int(appointment["meta"]["versionId"]),
        comment=digest(appointment.get("comment")),
    )


async def _answer(response: aiohttp.ClientResponse) -> Answer:
    content = await response.read()
    try:
        body = msgspec.json.decode(content)
    except msgspec.DecodeError:
        body = None
    stale = response.headers.get("X-Locum-Stale")
    return Answer(response.status, body if isinstance(body, dict) else None, int(stale) if stale is not None else None)


def _proposal(appointment: Json) -> Proposal:
    practitioner = _participant(appointment, "Practitioner") or ""
    return Proposal(
        appointment["start"],
        practitioner,
        appointment["id"],
        appointment["end"],
        _participant(appointment, "Location"),
        _participant(appointment, "Device"),
    )


def _participant(appointment: Json, kind: str) -> str | None:
    for item in appointment.get("participant", []):
        reference = str(item.get("actor", {}).get("reference", ""))
        if reference.startswith(f"{kind}/"):
            return reference.removeprefix(f"{kind}/")
    return None


def _wanted(proposal: Proposal) -> list[Json]:
    return [
        {"name": "appointment-reference", "valueReference": {"reference": f"Appointment/{proposal.id}"}},
        {"name": "patient-resource", "resource": {"resourceType": "Patient", "id": proposal.patient}},
    ]


def _parameters(*items: Json) -> Json:
    return {"resourceType": "Parameters", "parameter": list(items)}
