"""$find by days, hours, organisation and kind of visit: by the clock of the site, with practitioners named and without."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.integration.server.bodies import parameters
from tests.integration.server.clinic import Clinic, Json, clinic


async def find(it: Clinic, *more: Json, days: int = 9) -> list[Json]:
    now = datetime.now(UTC)
    moments = [
        {"name": "start", "valueDateTime": now.isoformat()},
        {"name": "end", "valueDateTime": (now + timedelta(days=days)).isoformat()},
    ]
    status, bundle, _ = await it.call("/fhir/Appointment/$find", parameters(*moments, *more))
    assert status == 200, bundle
    return [entry["resource"] for entry in bundle.get("entry", [])]


def starts(found: list[Json]) -> list[datetime]:
    return [
        datetime.fromisoformat(one["start"]).astimezone(ZoneInfo(one["_start"]["extension"][0]["valueCode"]))
        for one in found
    ]


def timing(**repeat: Any) -> Json:
    return {"name": "timing", "valueTiming": {"repeat": repeat}}


NAMED = tuple({"name": "practitioner", "valueReference": {"reference": f"Practitioner/dr-0{n}"}} for n in (1, 2, 3))


@pytest.mark.parametrize("named", [(), NAMED])
async def test_only_what_fits_is_offered(tmp_path: Path, named: tuple[Json, ...]) -> None:
    async with clinic(tmp_path) as it:
        every = await find(it, *named)
        found = await find(it, *named, timing(dayOfWeek=["tue", "sat"]))
        assert {start.isoweekday() for start in starts(found)} == {2, 6}
        assert len(found) == sum(start.isoweekday() in (2, 6) for start in starts(every))
        found = await find(it, *named, timing(when=["MORN"]))
        assert {start.hour for start in starts(found)} == {8, 9, 10, 11}
        found = await find(it, *named, timing(dayOfWeek=["mon"], timeOfDay=["09:30:00", "16:00:00"]))
        assert {(s.isoweekday(), s.hour, s.minute) for s in starts(found)} == {(1, 9, 30), (1, 16, 0)}
        south = {"name": "organization", "valueReference": {"reference": "Organization/site-south"}}
        found = await find(it, *named, south)
        assert {one["_start"]["extension"][0]["valueCode"] for one in found} == {"Europe/Berlin"}
        assert 0 < len(found) < len(every)
        kind = {"name": "visit-type", "valueCodeableConcept": {"coding": [{"code": "394579002"}]}}
        found = await find(it, *named, kind)
        assert {one["specialty"][0]["coding"][0]["code"] for one in found} == {"394579002"}
        general = {"name": "specialty", "valueCodeableConcept": {"coding": [{"code": "394814009"}]}}
        assert await find(it, *named, kind, general) == [], "different kinds narrow together"
        status, organization, _ = await it.call("/fhir/Organization/site-south")
        assert (status, organization["name"]) == (200, "Locum Clinic South")
