"""The slots of a clinic: rows for every time that its rules offer, made ahead and kept rolling. All of it idempotent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import structlog

from server import availability, store
from server.clinic import Clinic
from server.context import now
from server.errors import Refusal
from server.replay import Replay

_log = structlog.get_logger()

_ROLL_EVERY_S = 600.0
_SEED_DEADLINE_S = 60.0
_AT_ONCE = 20_000


def offered(clinic: Clinic, at: datetime) -> Iterator[tuple[str, str, str | None, datetime, datetime]]:
    """(practitioner, room, device, start, end) of every time from the day of `at` on, for each site by its own calendar; as long as the
    horizon, and the day that is under way."""
    zones = {site.id: ZoneInfo(site.timezone) for site in clinic.sites}
    shared: dict[tuple[str, availability.Rule], list[availability.Period]] = {}
    for person in clinic.practitioners:
        zone = zones[person.site]
        for rule in person.availability:
            key = (zone.key, rule)
            if key not in shared:
                shared[key] = availability.times(rule, zone, at.astimezone(zone).date(), clinic.horizon_days + 1)
            for period in shared[key]:
                yield person.id, person.room_id, person.device_id, period.start, period.end


async def seed(replay: Replay, clinic: Clinic, until_s: float) -> None:
    """Make what is missing of the clinic and its slots. Raises Refusal when no primary came in time."""
    sites, staff = clinic.sites, clinic.practitioners
    await replay.write(
        store.SITES, ([s.id for s in sites], [s.name for s in sites], [s.timezone for s in sites]), until_s
    )
    rooms = list({p.room_id: (p.room_id, p.room, p.site) for p in staff}.values())
    await replay.write(
        store.ROOMS, tuple([list(column) for column in zip(*rooms, strict=True)] or [[], [], []]), until_s
    )
    devices = {p.device_id: p.device or p.device_id for p in staff if p.device_id is not None}
    await replay.write(store.DEVICES, (list(devices), list(devices.values())), until_s)
    columns = ("id", "given", "family", "specialty_code", "specialty", "room_id")
    await replay.write(store.PEOPLE, tuple([getattr(p, name) for p in staff] for name in columns), until_s)
    made = await asyncio.to_thread(lambda: list(offered(clinic, now())))
    for first in range(0, len(made), _AT_ONCE):
        columns_of_slots = zip(*made[first : first + _AT_ONCE], strict=True)
        await replay.write(store.NEW_SLOTS, tuple(list(column) for column in columns_of_slots), until_s)


async def roll(replay: Replay, clinic: Clinic, seeded: Callable[[], None]) -> None:
    """Seed at once, then keep the slots rolling, until cancelled."""
    while True:
        began_s = time.monotonic()
        try:
            await seed(replay, clinic, began_s + _SEED_DEADLINE_S)
        except Refusal:
            continue  # there is no primary yet: it waited for one
        seeded()
        took_ms = int(1000 * (time.monotonic() - began_s))
        _log.info("server.clinic_seeded", practitioners=len(clinic.practitioners), took_ms=took_ms)
        await asyncio.sleep(_ROLL_EVERY_S)


async def sweep(end_holds: Callable[[], Awaitable[object]], every_s: float) -> None:
    """End the holds that nobody came back for, until cancelled: so that they are not shown as pending for ever."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await end_holds()
        except Refusal:
            continue
