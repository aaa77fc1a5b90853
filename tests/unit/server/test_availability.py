"""Rules become times on every clock there is: nothing overlaps, nothing is left out, and the wall shows what the rule says."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.availability import Rule, fault, instant, times

ZONES = sorted(name for name in available_timezones() if "/" in name or name == "UTC")


@cache
def transitions(name: str) -> tuple[date, ...]:
    """The days around which the zone's offset changes, in the years that matter."""
    zone, found = ZoneInfo(name), []
    day = datetime(2024, 1, 1, 12, tzinfo=UTC)
    offset = day.astimezone(zone).utcoffset()
    while day.year < 2029:
        day += timedelta(days=1)
        now = day.astimezone(zone).utcoffset()
        if now != offset:
            found.append(day.date())
            offset = now
    return tuple(found)


def check(rule: Rule, zone: ZoneInfo, first: date, days: int) -> None:
    found = times(rule, zone, first, days)
    for period in found:
        assert period.end - period.start == timedelta(minutes=rule.minutes), "a patient gets the whole time"
        local = period.start.astimezone(zone)
        assert instant(local.date(), rule.opens, zone) <= period.start
        assert period.end <= instant(local.date(), rule.closes, zone)
    step = timedelta(minutes=rule.before + rule.minutes + rule.after)
    for one, other in pairwise(found):
        assert other.start - one.start >= step, "nothing overlaps"
    for ahead in range(days):
        day = first + timedelta(days=ahead)
        open_for = instant(day, rule.closes, zone) - instant(day, rule.opens, zone)
        of_day = [period for period in found if period.start.astimezone(zone).date() == day]
        assert len(of_day) == max(0, open_for // step), "nothing is left out"


@pytest.mark.parametrize("name", ZONES)
def test_every_transition_of_every_zone(name: str) -> None:
    zone = ZoneInfo(name)
    for day in transitions(name) or (date(2026, 3, 29),):
        first = day - timedelta(days=1)
        for rule in (
            Rule(),
            Rule(opens=time(0), closes=time(23, 59), minutes=20),
            Rule(opens=time(2, 30), closes=time(4), minutes=30),
        ):
            check(rule, zone, first, 3)


@given(
    st.sampled_from(ZONES),
    st.dates(date(2024, 1, 1), date(2028, 12, 1)),
    st.times(),
    st.integers(1, 23 * 60),
    st.integers(1, 120),
    st.integers(0, 30),
    st.integers(0, 30),
)
def test_any_rule_on_any_day(
    name: str, first: date, opens: time, span: int, minutes: int, before: int, after: int
) -> None:
    opens = opens.replace(second=0, microsecond=0, fold=0)
    closes = (datetime.combine(first, opens) + timedelta(minutes=span)).time()
    rule = Rule(opens=opens, closes=closes, minutes=minutes, before=before, after=after)
    if fault(rule) is None:
        check(rule, ZoneInfo(name), first, 3)


def test_a_clock_that_is_turned_forward_and_back() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert instant(date(2026, 3, 29), time(2, 30), berlin) == datetime(2026, 3, 29, 1, tzinfo=UTC), (
        "skipped: when it jumps"
    )
    assert instant(date(2026, 10, 25), time(2, 30), berlin) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC), (
        "twice: the first"
    )
    night = Rule(opens=time(0), closes=time(6), minutes=60)
    assert [
        len(times(night, berlin, day, 1)) for day in (date(2026, 3, 28), date(2026, 3, 29), date(2026, 10, 25))
    ] == [6, 5, 7]


def test_days_recur_as_rfc_5545_says_and_exceptions_are_left_out() -> None:
    rule = Rule(
        days="FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,WE", since=date(2026, 1, 5), except_on=(date(2026, 1, 21),), minutes=600
    )
    found = [period.start.date() for period in times(rule, ZoneInfo("UTC"), date(2026, 1, 1), 30)]
    assert found == [date(2026, 1, 5), date(2026, 1, 7), date(2026, 1, 19)]


@pytest.mark.parametrize(
    "bad",
    [
        {"opens": time(9), "closes": time(9)},
        {"opens": time(18), "closes": time(8)},
        {"minutes": 0},
        {"before": -1},
        {"days": "every tuesday"},
        {"days": "FREQ=HOURLY;BYDAY=XX"},
    ],
)
def test_a_rule_that_makes_no_sense_says_why(bad: dict[str, object]) -> None:
    assert fault(Rule(**bad))  # type: ignore[arg-type]
