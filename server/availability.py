"""When somebody may be booked: rules of a clinic's own clock, made into times. Pure.

A rule's days come from an RFC 5545 recurrence; on each of them it opens and closes by the wall clock of the site's zone. A day on which
the clock changes has an hour more or less of real time: opening and closing are looked up, and everything between is real time, so that
no two times overlap and none is left out. An opening that the clock skips is the moment at which it jumps; one that it shows twice is the
first.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import msgspec
from dateutil.rrule import rrulestr  # type: ignore[import-untyped]

EVERY_DAY = "FREQ=DAILY"
_DAYS_MAX = 400


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`days`: RFC 5545 recurrence, from `since` on; `except_on`: days that are left out. Of each `minutes` some are for the patient, with
    `before` and `after` for the practitioner alone."""

    days: str = EVERY_DAY
    since: date = date(2024, 1, 1)
    except_on: tuple[date, ...] = ()
    opens: time = time(8)
    closes: time = time(18)
    minutes: int = 15
    before: int = 0
    after: int = 0


class Period(msgspec.Struct, frozen=True, order=True):
    """A time that can be booked, in UTC."""

    start: datetime
    end: datetime


def fault(rule: Rule) -> str | None:
    """Why a rule makes no sense, as a sentence; None when it does."""
    if rule.closes <= rule.opens:
        return "closes must be after opens, on the same day"
    if rule.minutes < 1 or rule.before < 0 or rule.after < 0:
        return "minutes must be at least 1, before and after not negative"
    try:
        _recurrence(rule)
    except (ValueError, TypeError) as error:
        return f"days is no recurrence of RFC 5545: {error}"
    return None


def times(rule: Rule, zone: ZoneInfo, first: date, days: int) -> list[Period]:
    """Everything that the rule offers from the day `first` on, for so many days, in order."""
    return [period for day in _days(rule, first, min(days, _DAYS_MAX)) for period in _of_day(rule, zone, day)]


def instant(day: date, at: time, zone: ZoneInfo) -> datetime:
    """When the wall clock of the zone shows this, in UTC: the first time, or the moment at which it skips it."""
    wall = datetime.combine(day, at)
    early, late = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if early.astimezone(zone).replace(tzinfo=None) == wall:
        return early
    return _jump(zone, late, early)


def _jump(zone: ZoneInfo, low: datetime, high: datetime) -> datetime:
    """The moment between two at which the zone's offset changes: in a gap PEP 495 gives one on either side of it."""
    offset = low.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        if middle.astimezone(zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)


def _days(rule: Rule, first: date, count: int) -> Iterator[date]:
    begin = datetime.combine(first, time())
    end = begin + timedelta(days=count - 1)
    for moment in _recurrence(rule).between(begin, end, inc=True):
        if moment.date() not in rule.except_on:
            yield moment.date()


def _recurrence(rule: Rule) -> rrulestr:
    return rrulestr(rule.days, dtstart=datetime.combine(rule.since, time()))


def _of_day(rule: Rule, zone: ZoneInfo, day: date) -> Iterator[Period]:
    at, end = instant(day, rule.opens, zone), instant(day, rule.closes, zone)
    step = timedelta(minutes=rule.before + rule.minutes + rule.after)
    while at + step <= end:
        start = at + timedelta(minutes=rule.before)
        yield Period(start, start + timedelta(minutes=rule.minutes))
        at += step
