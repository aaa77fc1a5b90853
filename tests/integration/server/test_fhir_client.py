"""A client of others' making (the SMART project's fhirclient, models of FHIR R4) prepares, searches, reads, and is told why not."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fhirclient import client  # type: ignore[import-untyped]
from fhirclient.models.appointment import Appointment  # type: ignore[import-untyped]
from fhirclient.models.bundle import Bundle  # type: ignore[import-untyped]
from fhirclient.models.fhirreference import FHIRReference  # type: ignore[import-untyped]
from fhirclient.models.healthcareservice import HealthcareService  # type: ignore[import-untyped]
from fhirclient.models.location import Location  # type: ignore[import-untyped]
from fhirclient.models.operationoutcome import OperationOutcome  # type: ignore[import-untyped]
from fhirclient.models.parameters import Parameters, ParametersParameter  # type: ignore[import-untyped]
from fhirclient.models.patient import Patient  # type: ignore[import-untyped]
from fhirclient.models.practitioner import Practitioner  # type: ignore[import-untyped]
from fhirclient.models.practitionerrole import PractitionerRole  # type: ignore[import-untyped]
from fhirclient.models.schedule import Schedule  # type: ignore[import-untyped]
from fhirclient.models.slot import Slot  # type: ignore[import-untyped]
from requests import HTTPError

from tests.integration.server.clinic import clinic


def visit(base: str) -> dict[str, Any]:
    """What a frontend does with it, from the first request on; its models refuse what is not FHIR R4. Blocks."""
    smart = client.FHIRClient(settings={"app_id": "locum-test", "api_base": base})
    assert smart.prepare(), "the CapabilityStatement asks for nothing"
    server = smart.server
    found: dict[str, Any] = {"kinds": {}}
    for kind in (Location, Practitioner, PractitionerRole, HealthcareService, Schedule):
        resources = kind.where(struct={}).perform_resources(server)
        found["kinds"][kind.resource_type] = len(resources)
        assert kind.read(resources[0].id, server).id == resources[0].id
    later = f"ge{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"  # one that begins now is soon in the past
    slot = Slot.where(struct={"status": "free", "start": later, "_count": "1"}).perform_resources(server)[0]
    schedule = slot.schedule.resolved(Schedule) or Schedule.read_from(slot.schedule.reference, server)
    found["schedule"] = schedule.actor[0].reference
    wanted = Parameters()
    wanted.parameter = [
        ParametersParameter({"name": "appointment-reference"}),
        ParametersParameter({"name": "patient-reference"}),
    ]
    wanted.parameter[0].valueReference = FHIRReference({"reference": f"Appointment/prop-{slot.id}"})
    wanted.parameter[1].valueReference = FHIRReference({"reference": "Patient/ada"})
    made = Bundle(server.post_json("Appointment/$book", wanted.as_json()).json())
    appointment = made.entry[0].resource
    assert isinstance(appointment, Appointment)
    again = Appointment.read(appointment.id, server)
    found["appointment"] = (
        again.status,
        again.start.date == slot.start.date,
        again.slot[0].reference == f"Slot/{slot.id}",
    )
    of_ada = Appointment.where(struct={"patient": "Patient/ada", "_include": "Appointment:patient"}).perform_resources(
        server
    )
    found["search"] = sorted(one.resource_type for one in of_ada)
    assert isinstance(Patient.read("ada", server), Patient)
    try:
        server.post_json("Appointment/$book", wanted.as_json())
    except HTTPError as error:
        outcome = OperationOutcome(error.response.json())
        found["refused"] = (error.response.status_code, outcome.issue[0].details.coding[0].code)
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_another_projects_client_reads_what_the_server_writes(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        found = await asyncio.to_thread(visit, f"{it.url}/fhir")
        assert found["kinds"] == {
            "Location": found["kinds"]["Location"], "Practitioner": 3, "PractitionerRole": 3, "HealthcareService": 3, "Schedule": 3
        }  # fmt: skip
        assert found["schedule"].startswith("Practitioner/")
        assert found["appointment"] == ("booked", True, True)
        assert found["search"] == ["Appointment", "Patient"]
        assert found["refused"] == (409, "slot-taken")
