"""A clinic: its sites, and who may be booked where and when. From a TOML file, or the demo's. Pure but for the reading.

horizon_days = 30
[[sites]]
id = "north"
name = "Clinic North"
timezone = "Europe/London"
[[practitioners]]
id = "dr-jones"
given = "Ann"
family = "Jones"
specialty_code = "394814009"
specialty = "General practice"
site = "north"
room_id = "room-1"
room = "Room 1"
device_id = "ultrasound"  # left out where nothing is needed but the room; others may need the same one
device = "Ultrasound, ground floor"
[[practitioners.availability]]
days = "FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR"
opens = 08:00:00
closes = 12:00:00
minutes = 15
except_on = [2026-12-25]
"""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from replication.wire import toml
from server import availability
from server.availability import Rule
from server.errors import Refusal, ServerError
from server.identity import check_id

HORIZON_DAYS_MIN, HORIZON_DAYS_MAX = 1, 90


class ClinicRefused(ServerError):
    """A clinic's file cannot be used: names the file, the entry, and what is wrong with it."""


class Site(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A place with a clock."""

    id: str
    name: str
    timezone: str


class Person(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A practitioner with a room at a site, and with a piece of equipment where every appointment needs one."""

    id: str
    given: str
    family: str
    specialty_code: str
    specialty: str
    room_id: str
    room: str
    site: str
    device_id: str | None = None
    device: str | None = None
    availability: list[Rule] = []


class Clinic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`horizon_days`: for so many days from today times are offered."""

    sites: list[Site]
    practitioners: list[Person]
    horizon_days: int = 14


def load(path: Path) -> Clinic:
    """Read and check a clinic's file. Blocks. Raises ClinicRefused."""
    try:
        found = toml.decode(path.read_bytes(), Clinic)
    except OSError as error:
        raise ClinicRefused(f"cannot read the clinic {path}: {error.strerror}") from error
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise ClinicRefused(f"{path} is no clinic: {error}") from error
    if (why := fault(found)) is not None:
        raise ClinicRefused(f"{path}: {why}")
    return found


def fault(clinic: Clinic) -> str | None:
    """The first thing that is wrong with a clinic, as a sentence; None when it can be used."""
    if not HORIZON_DAYS_MIN <= clinic.horizon_days <= HORIZON_DAYS_MAX:
        return f"horizon_days must lie in {HORIZON_DAYS_MIN} to {HORIZON_DAYS_MAX}"
    sites = [site.id for site in clinic.sites]
    people = [person.id for person in clinic.practitioners]
    devices = [person.device_id for person in clinic.practitioners if person.device_id is not None]
    for name in (*sites, *people, *(person.room_id for person in clinic.practitioners), *devices):
        try:
            check_id(name)
        except Refusal as error:
            return str(error)
    for names in (sites, people):
        if len(set(names)) < len(names):
            return f"an id is there twice: {next(name for name in names if names.count(name) > 1)}"
    for site in clinic.sites:
        try:
            ZoneInfo(site.timezone)
        except (ZoneInfoNotFoundError, ValueError):
            return f"site {site.id}: {site.timezone!r} is no time zone, such as Europe/London"
    for person in clinic.practitioners:
        if person.site not in sites:
            return f"practitioner {person.id}: there is no site {person.site!r}"
        for rule in person.availability:
            if (why := availability.fault(rule)) is not None:
                return f"practitioner {person.id}: {why}"
    return None
