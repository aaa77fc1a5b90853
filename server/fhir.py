"""Rows as FHIR R4 resources (plain dictionaries, as they are encoded), and Bundles of them.

Times of a clinic are instants with the clinic's offset, and the zone's name in the tz-code extension
(http://hl7.org/fhir/R4/extension-tz-code.html).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from server.identity import proposal_id
from server.store import AppointmentRow, SlotRow

Resource = dict[str, Any]

TZ_CODE = "http://hl7.org/fhir/StructureDefinition/tz-code"
HOLD_EXPIRES = "urn:locum:fhir:hold-expires"
"""Extension of a pending Appointment: valueInstant, when the hold ends."""
SNOMED = "http://snomed.info/sct"
_INTERACTIONS = ("read", "vread", "search-type", "create")
_PHYSICAL_TYPE = "http://terminology.hl7.org/CodeSystem/location-physical-type"
_APPOINTMENT_PROFILE = "https://profiles.ihe.net/ITI/Scheduling/StructureDefinition/ihe-sched-appt"


def appointment(row: AppointmentRow) -> Resource:
    """An Appointment as it is kept."""
    zone = ZoneInfo(row.timezone)
    who = [participant("Practitioner", row.practitioner_id, row.practitioner_name)]
    who.append(participant("Location", row.location_id, row.location_name))
    if row.device_id is not None:
        who.append(participant("Device", row.device_id, row.device_name))
    if row.patient_id is not None:
        who.append(participant("Patient", row.patient_id, row.patient_name))
    found: Resource = {
        "resourceType": "Appointment",
        "id": str(row.id),
        "meta": {
            "versionId": str(row.version),
            "lastUpdated": utc(row.updated_at),
            "profile": [_APPOINTMENT_PROFILE],
        },
        "status": row.status.value,
        "specialty": [specialty(row.specialty_code, row.specialty)],
        **period(row.starts_at, row.ends_at, zone),
        "minutesDuration": minutes(row.starts_at, row.ends_at),
        "slot": [{"reference": f"Slot/{row.slot_id}"}],
        "created": utc(row.created_at),
        "participant": who,
    }
    if row.comment is not None:
        found["comment"] = row.comment
    if row.hold_expires_at is not None:
        found["extension"] = [{"url": HOLD_EXPIRES, "valueInstant": utc(row.hold_expires_at)}]
    return found


def proposal(row: SlotRow) -> Resource:
    """A proposed Appointment: nothing is kept of it, its id means its slot."""
    who = [
        participant("Practitioner", row.practitioner_id, row.practitioner_name, "needs-action"),
        participant("Location", row.location_id, row.location_name, "needs-action"),
    ]
    if row.device_id is not None:
        who.append(participant("Device", row.device_id, row.device_name, "needs-action"))
    return {
        "resourceType": "Appointment",
        "id": proposal_id(row.id),
        "meta": {"profile": [_APPOINTMENT_PROFILE]},
        "status": "proposed",
        "specialty": [specialty(row.specialty_code, row.specialty)],
        **period(row.starts_at, row.ends_at, ZoneInfo(row.timezone)),
        "minutesDuration": minutes(row.starts_at, row.ends_at),
        "slot": [{"reference": f"Slot/{row.id}"}],
        "participant": who,
    }


def slot(row: SlotRow) -> Resource:
    """A Slot with its state now."""
    return {
        "resourceType": "Slot",
        "id": str(row.id),
        "serviceType": [specialty(row.specialty_code, row.specialty)],
        "specialty": [specialty(row.specialty_code, row.specialty)],
        "schedule": {"reference": f"Schedule/{row.practitioner_id}", "display": row.practitioner_name},
        "status": row.busy or "free",
        **period(row.starts_at, row.ends_at, ZoneInfo(row.timezone)),
    }


def practitioner(row: Mapping[str, Any]) -> Resource:
    """A Practitioner."""
    name = {"text": f"{row['given']} {row['family']}", "family": row["family"], "given": [row["given"]]}
    return {"resourceType": "Practitioner", "id": row["id"], "active": True, "name": [name]}


def location(row: Mapping[str, Any]) -> Resource:
    """A Location: a room with its site, or a site."""
    code, display = ("si", "Site") if row["site_id"] is None else ("ro", "Room")
    found: Resource = {
        "resourceType": "Location",
        "id": row["id"],
        "status": "active",
        "name": row["name"],
        "mode": "instance",
        "physicalType": {"coding": [{"system": _PHYSICAL_TYPE, "code": code, "display": display}]},
    }
    if row["site_id"] is not None:
        found["partOf"] = {"reference": f"Location/{row['site_id']}"}
    return found


def organization(row: Mapping[str, Any]) -> Resource:
    """An Organization: each site is one here, and has its id."""
    return {"resourceType": "Organization", "id": row["id"], "active": True, "name": row["name"]}


def device(row: Mapping[str, Any]) -> Resource:
    """A Device: a piece of equipment that one appointment at a time may need."""
    name = {"name": row["name"], "type": "user-friendly-name"}
    return {"resourceType": "Device", "id": row["id"], "status": "active", "deviceName": [name]}


def schedule(row: Mapping[str, Any]) -> Resource:
    """A practitioner's Schedule, in the practitioner's room."""
    found: Resource = {
        "resourceType": "Schedule",
        "id": row["id"],
        "active": True,
        "specialty": [specialty(row["specialty_code"], row["specialty"])],
        "actor": [
            {"reference": f"Practitioner/{row['id']}", "display": row["name"]},
            {"reference": f"Location/{row['location_id']}", "display": row["location_name"]},
        ],
    }
    if row["first_start"] is not None:
        found["planningHorizon"] = {"start": utc(row["first_start"]), "end": utc(row["last_end"])}
    return found


def practitioner_role(row: Mapping[str, Any]) -> Resource:
    """What a practitioner does, and where."""
    return {
        "resourceType": "PractitionerRole",
        "id": row["id"],
        "active": True,
        "practitioner": {"reference": f"Practitioner/{row['id']}", "display": row["name"]},
        "specialty": [specialty(row["specialty_code"], row["specialty"])],
        "location": [{"reference": f"Location/{row['location_id']}", "display": row["location_name"]}],
        "healthcareService": [{"reference": f"HealthcareService/{row['specialty_code']}", "display": row["specialty"]}],
    }


def healthcare_service(row: Mapping[str, Any]) -> Resource:
    """What can be booked at which sites: a specialty."""
    return {
        "resourceType": "HealthcareService",
        "id": row["id"],
        "active": True,
        "name": row["specialty"],
        "type": [specialty(row["id"], row["specialty"])],
        "specialty": [specialty(row["id"], row["specialty"])],
        "location": [{"reference": f"Location/{site}"} for site in row["sites"]],
        "appointmentRequired": True,
    }


def patient(row: Mapping[str, Any]) -> Resource:
    """A Patient: only what scheduling needs is kept."""
    found: Resource = {"resourceType": "Patient", "id": row["id"]}
    if row["name"]:
        found["name"] = [{"text": row["name"]}]
    return found


def audit_event(row: Mapping[str, Any]) -> Resource:
    """An AuditEvent: who did or saw what, and whose it was."""
    known = row["operation"] in _INTERACTIONS
    system = "http://hl7.org/fhir/restful-interaction" if known else "urn:locum:fhir:operation"
    entity: Resource = {"what": {"reference": row["entity"]}} if "/" in row["entity"] else {"name": row["entity"]}
    entities = [entity]
    if row["patient_id"] is not None and row["entity"] != f"Patient/{row['patient_id']}":
        entities.append({"what": {"reference": f"Patient/{row['patient_id']}"}})
    return {
        "resourceType": "AuditEvent",
        "id": str(row["id"]),
        "type": {"system": "http://terminology.hl7.org/CodeSystem/audit-event-type", "code": "rest"},
        "subtype": [{"system": system, "code": row["operation"]}],
        "action": row["action"],
        "recorded": utc(row["starts_at"]),
        "outcome": "0",
        "agent": [{"who": {"identifier": {"value": row["agent"]}}, "requestor": True}],
        "source": {"observer": {"display": "Locum"}},
        "entity": entities,
    }


def searchset(
    base: str,
    resources: Iterable[Resource],
    *,
    total: int | None = None,
    links: Mapping[str, str] | None = None,
    included: Iterable[Resource] = (),
) -> Resource:
    """A Bundle of matches, and of what they refer to. `base`: the server's own URL, ending in /fhir; `links`: relation → URL."""
    entries = [*(entry(base, one) for one in resources), *(entry(base, one, "include") for one in included)]
    found: Resource = {"resourceType": "Bundle", "type": "searchset"}
    if total is not None:
        found["total"] = total
    if links:
        found["link"] = [{"relation": relation, "url": url} for relation, url in links.items()]
    if entries:
        found["entry"] = entries
    return found


def entry(base: str, resource: Resource, mode: str = "match") -> Resource:
    """One entry of a searchset."""
    url = f"{base}/{resource['resourceType']}/{resource['id']}"
    return {"fullUrl": url, "resource": resource, "search": {"mode": mode}}


def participant(kind: str, key: str, display: str | None, status: str = "accepted") -> Resource:
    """One participant with a reference that this server resolves."""
    actor = {"reference": f"{kind}/{key}"}
    if display:
        actor["display"] = display
    return {"actor": actor, "required": "required", "status": status}


def specialty(code: str, display: str) -> Resource:
    """A specialty, in SNOMED CT."""
    return {"coding": [{"system": SNOMED, "code": code, "display": display}]}


def period(start: datetime, end: datetime, zone: ZoneInfo) -> Resource:
    """start and end with the clinic's offset and zone."""
    code = {"extension": [{"url": TZ_CODE, "valueCode": zone.key}]}
    return {
        "start": start.astimezone(zone).isoformat(timespec="seconds"),
        "_start": code,
        "end": end.astimezone(zone).isoformat(timespec="seconds"),
        "_end": code,
    }


def minutes(start: datetime, end: datetime) -> int:
    """The length of an appointment."""
    return int((end - start).total_seconds()) // 60


def utc(moment: datetime) -> str:
    """An instant in UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
