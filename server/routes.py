"""Which path is served by which function: the whole table of the FHIR interface."""

from __future__ import annotations

from aiohttp import web

from server import (
    capability,
    openapi,
    routes_audit,
    routes_book,
    routes_find,
    routes_key,
    routes_patient,
    routes_read,
    routes_response,
    routes_search,
)
from server.permission import needs

_REFERENCED = "{kind:Practitioner|PractitionerRole|HealthcareService|Organization|Location|Device|Schedule}"


def add(app: web.Application) -> None:
    """Register every route under /fhir, and /openapi.json."""
    router = app.router
    router.add_post("/fhir/Appointment/$find", needs("Appointment", "s", routes_find.find))
    router.add_post("/fhir/Appointment/$hold", needs("Appointment", "c", routes_book.hold))
    router.add_post("/fhir/Appointment/$book", routes_book.book)
    router.add_get("/fhir/Appointment", needs("Appointment", "s", routes_search.search_appointments))
    router.add_post("/fhir/Appointment/_search", needs("Appointment", "s", routes_search.search_appointments))
    router.add_get("/fhir/Appointment/{id}/_history/{version}", needs("Appointment", "r", routes_read.read_version))
    router.add_get("/fhir/Appointment/{id}", needs("Appointment", "r", routes_read.read_appointment))
    router.add_get("/fhir/Slot", needs("Slot", "s", routes_search.search_slots))
    router.add_post("/fhir/Slot/_search", needs("Slot", "s", routes_search.search_slots))
    router.add_get("/fhir/Slot/{id}", needs("Slot", "r", routes_read.read_slot))
    router.add_post("/fhir/Patient", needs("Patient", "c", routes_patient.create))
    router.add_get("/fhir/Patient/{id}", needs("Patient", "r", routes_read.read_patient))
    router.add_post("/fhir/AppointmentResponse", needs("AppointmentResponse", "c", routes_response.create))
    router.add_get("/fhir/AuditEvent", needs("AuditEvent", "s", routes_audit.search))
    router.add_post("/fhir/AuditEvent/_search", needs("AuditEvent", "s", routes_audit.search))
    router.add_get("/fhir/AuditEvent/{id}", needs("AuditEvent", "r", routes_audit.read))
    router.add_get("/fhir/metadata", capability.metadata)
    router.add_get(f"/fhir/{_REFERENCED}", routes_search.search_referenced)
    router.add_post(f"/fhir/{_REFERENCED}/_search", routes_search.search_referenced)
    router.add_get(f"/fhir/{_REFERENCED}/{{id}}", routes_read.read_referenced)
    router.add_get("/openapi.json", openapi.openapi)
    router.add_get("/idempotency/{key:.+}", needs("Appointment", "r", routes_key.show))
