"""When a patient could come: FHIR's Timing, as far as it narrows a search for free times (R4 datatypes.html#Timing). Pure."""

from __future__ import annotations

from datetime import datetime, time, timedelta

import msgspec

from server.bodies import Timing
from server.errors import Refusal

_DAYS = {name: number for number, name in enumerate(("mon", "tue", "wed", "thu", "fri", "sat", "sun"), 1)}
_LAST = time.max
_WHEN = {
    "MORN": (time(0), time(11, 59, 59, 999_999)),
    "AFT": (time(12), time(17, 59, 59, 999_999)),
    "EVE": (time(18), _LAST),
}
_MINUTE = timedelta(minutes=1)


class Hours(msgspec.Struct, frozen=True):
    """By the wall clock of the site. `days`: ISO, Monday is 1; `since` and `until`: the times of day, both included, in pairs.
    Empty does not narrow."""

    days: tuple[int, ...] = ()
    since: tuple[time, ...] = ()
    until: tuple[time, ...] = ()


ALWAYS = Hours()


def hours(timing: Timing | None) -> Hours:
    """Days of the week, and times of day or parts of it; one of either is enough. Raises Refusal 400 or 422."""
    repeat = timing.repeat if timing is not None else None
    if repeat is None:
        raise Refusal(400, "required", "the parameter timing needs a valueTiming with repeat")
    if any(day not in _DAYS for day in repeat.day_of_week):
        raise Refusal(422, "code-invalid", f"dayOfWeek is one of {', '.join(_DAYS)}")
    if any(when not in _WHEN for when in repeat.when):
        raise Refusal(422, "code-invalid", f"when is one of {', '.join(_WHEN)} here")
    spans = [_WHEN[when] for when in repeat.when] + [_at(text) for text in repeat.time_of_day]
    return Hours(
        tuple(_DAYS[day] for day in repeat.day_of_week),
        tuple(since for since, _ in spans),
        tuple(until for _, until in spans),
    )


def _at(text: str) -> tuple[time, time]:
    """A start within this minute."""
    try:
        found = time.fromisoformat(text)
    except ValueError:
        raise Refusal(400, "value", f"{text[:20]!r} is not a time of day such as 09:30:00") from None
    if found.tzinfo is not None:
        raise Refusal(400, "value", "a time of day has no offset: it is the site's own")
    since = found.replace(second=0, microsecond=0)
    return since, (datetime.combine(datetime.min, since) + _MINUTE - timedelta(microseconds=1)).time()
