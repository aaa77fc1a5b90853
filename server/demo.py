"""The demo clinic: two sites, a room for each practitioner, slots that roll 14 days ahead. All of it idempotent.

Which people and when they are in is pure; `seed` puts it into the database by a few statements, one for each site's slots.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import structlog

from server import store
from server.context import now
from server.errors import Refusal
from server.replay import Replay

_log = structlog.get_logger()

DAYS_AHEAD = 14
SLOT_MINUTES = 15
_OPENS_HOUR, _CLOSES_HOUR = 8, 18
_ROLL_EVERY_S = 600.0
_SEED_DEADLINE_S = 60.0

SITES = (("north", "Locum Clinic North", "Europe/London"), ("south", "Locum Clinic South", "Europe/Berlin"))
_GIVEN = ("Ada", "Bernard", "Chidi", "Dana", "Elif", "Farid", "Grace", "Hana", "Igor", "Jun")
_FAMILY = ("Abara", "Bianchi", "Castillo", "Dvorak", "Eriksen", "Fontaine", "Gupta", "Haddad")
_SPECIALTIES = (
    ("394814009", "General practice"),
    ("394579002", "Cardiology"),
    ("394582007", "Dermatology"),
    ("394537008", "Paediatric specialty"),
)


class Person(msgspec.Struct, frozen=True):
    """A practitioner with a room; the room's site follows from the order."""

    id: str
    given: str
    family: str
    specialty_code: str
    specialty: str
    room_id: str
    room: str
    site_id: str


def people(count: int) -> list[Person]:
    """The first `count` practitioners, at most 80, always the same."""
    found = []
    for number in range(count):
        code, specialty = _SPECIALTIES[number % len(_SPECIALTIES)]
        site, site_name, _ = SITES[number % len(SITES)]
        found.append(
            Person(
                id=f"dr-{number + 1:02d}",
                given=_GIVEN[number % len(_GIVEN)],
                family=_FAMILY[number // len(_GIVEN)],
                specialty_code=code,
                specialty=specialty,
                room_id=f"room-{number + 1:02d}",
                room=f"Room {number + 1}, {site_name}",
                site_id=f"site-{site}",
            )
        )
    return found


def starts(zone: ZoneInfo, first: date, days: int) -> list[datetime]:
    """When slots begin, on each day from `first`: every 15 minutes of the clinic's own 8 to 18 o'clock."""
    per_day = (_CLOSES_HOUR - _OPENS_HOUR) * 60 // SLOT_MINUTES
    return [
        datetime(day.year, day.month, day.day, _OPENS_HOUR + number * SLOT_MINUTES // 60, tzinfo=zone)
        + timedelta(minutes=number * SLOT_MINUTES % 60)
        for day in (first + timedelta(days=ahead) for ahead in range(days))
        for number in range(per_day)
    ]


async def seed(replay: Replay, count: int, until_s: float) -> None:
    """Make what is missing of the clinic and of the next 14 days. Raises Refusal when no primary came in time."""
    staff = people(count)
    await replay.write(
        store.SITES, ([f"site-{key}" for key, _, _ in SITES], [s[1] for s in SITES], [s[2] for s in SITES]), until_s
    )
    rooms = ([p.room_id for p in staff], [p.room for p in staff], [p.site_id for p in staff])
    await replay.write(store.ROOMS, rooms, until_s)
    columns = [[getattr(p, name) for p in staff] for name in Person.__struct_fields__[:6]]
    await replay.write(store.PEOPLE, tuple(columns), until_s)
    for key, _, zone_name in SITES:
        zone = ZoneInfo(zone_name)
        moments = starts(zone, now().astimezone(zone).date(), DAYS_AHEAD + 1)
        await replay.write(store.SLOTS_OF_SITE, (f"site-{key}", moments, SLOT_MINUTES), until_s)


async def roll(replay: Replay, count: int, seeded: Callable[[], None]) -> None:
    """Seed at once, then keep the slots rolling, until cancelled."""
    while True:
        began_s = time.monotonic()
        try:
            await seed(replay, count, began_s + _SEED_DEADLINE_S)
        except Refusal:
            continue  # there is no primary yet: it waited for one
        seeded()
        _log.info("server.demo_seeded", practitioners=count, took_ms=int(1000 * (time.monotonic() - began_s)))
        await asyncio.sleep(_ROLL_EVERY_S)


async def sweep(end_holds: Callable[[], Awaitable[object]], every_s: float) -> None:
    """End the holds that nobody came back for, until cancelled: so that they are not shown as pending for ever."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await end_holds()
        except Refusal:
            continue
