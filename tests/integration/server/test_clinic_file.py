"""A clinic of one's own: its file becomes practitioners, rooms and times by its own clock; a file that is wrong says where."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from server.app import serving
from server.clinic import ClinicRefused, load
from tests.integration.server.clinic import clinic

OF_ONES_OWN = """
horizon_days = 20
[[sites]]
id = "north"
name = "Clinic North"
timezone = "America/New_York"
[[practitioners]]
id = "dr-jones"
given = "Ann"
family = "Jones"
specialty_code = "394814009"
specialty = "General practice"
site = "north"
room_id = "room-1"
room = "Room 1"
[[practitioners.availability]]
days = "FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR"
opens = 08:00:00
closes = 10:00:00
minutes = 20
after = 10
"""


async def test_times_are_offered_by_the_rules_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "clinic.toml"
    file.write_text(OF_ONES_OWN)
    async with clinic(tmp_path, practitioners=0, clinic_file=file) as it:
        soon = datetime.now(UTC) + timedelta(hours=1)
        status, bundle, _ = await it.call(f"/fhir/Slot?start=ge{soon:%Y-%m-%dT%H:%M:%SZ}&_count=1000")
        assert status == 200
        zone = ZoneInfo("America/New_York")
        starts = [datetime.fromisoformat(entry["resource"]["start"]).astimezone(zone) for entry in bundle["entry"]]
        assert {start.weekday() for start in starts} == {0, 1, 2, 3, 4}
        assert {(start.hour, start.minute) for start in starts} == {(8, 0), (8, 30), (9, 0), (9, 30)}
        assert max(starts).date() >= date.today() + timedelta(days=17)
        proposal = (await it.proposals(1))[0]
        assert proposal["minutesDuration"] == 20
        assert (await it.book(proposal, "ada"))[0] == 201
        status, role, _ = await it.call("/fhir/PractitionerRole/dr-jones")
        assert (status, role["location"][0]["display"]) == (200, "Room 1")
        assert it.shared is not None
        with pytest.raises(ClinicRefused):
            async with serving(
                it.shared.settings.__class__(**{**_fields(it.shared.settings), "clinic_file": tmp_path / "no"})
            ):
                pass


def _fields(settings: object) -> dict[str, object]:
    return {name: getattr(settings, name) for name in settings.__struct_fields__}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("America/New_York", "America/Nowhere", "is no time zone"),
        ('site = "north"', 'site = "south"', "there is no site 'south'"),
        ("closes = 10:00:00", "closes = 07:00:00", "closes must be after opens"),
        ("FREQ=WEEKLY", "FREQ=SOMETIMES", "no recurrence"),
        ("horizon_days = 20", "horizon_days = 900", "horizon_days must lie in"),
        ('id = "dr-jones"', 'id = "dr jones"', "is not an id"),
        ("minutes = 20", "minuten = 20", "minuten"),
        ("horizon_days = 20", "horizon_days = ", "is no clinic"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, old: str, new: str, why: str) -> None:
    file = tmp_path / "clinic.toml"
    file.write_text(OF_ONES_OWN.replace(old, new, 1))
    with pytest.raises(ClinicRefused, match=why):
        load(file)
