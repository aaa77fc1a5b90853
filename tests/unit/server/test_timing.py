"""Days of the week and times of day that narrow a search; what is not understood is refused, never ignored."""

from __future__ import annotations

from datetime import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.bodies import Timing
from server.errors import Refusal
from server.requests import parse_find, parse_parameters
from server.timing import ALWAYS, Hours, hours


def of(**repeat: Any) -> Hours:
    return hours(msgspec.json.decode(msgspec.json.encode({"repeat": repeat}), type=Timing))


def test_days_and_parts_of_the_day() -> None:
    assert of(dayOfWeek=["mon", "sun"]) == Hours((1, 7))
    assert of(when=["MORN"]) == Hours((), (time(0),), (time(11, 59, 59, 999_999),))
    assert of() == ALWAYS


@given(st.times())
def test_a_time_of_day_is_its_minute(at: time) -> None:
    found = of(timeOfDay=[at.isoformat("microseconds")])
    assert found.since[0] <= at <= found.until[0]
    assert (found.since[0].hour, found.since[0].minute) == (found.until[0].hour, found.until[0].minute)


@pytest.mark.parametrize(
    "repeat",
    [{"dayOfWeek": ["monday"]}, {"when": ["NIGHT"]}, {"timeOfDay": ["nine"]}, {"timeOfDay": ["09:00:00+01:00"]}],
)
def test_what_is_not_understood_is_refused(repeat: dict[str, Any]) -> None:
    with pytest.raises(Refusal):
        of(**repeat)


@pytest.mark.parametrize("timing", [{"repeat": {"frequency": 2}}, {"event": ["2026-01-01"]}, {}])
def test_what_would_narrow_in_another_way_is_refused(timing: dict[str, Any]) -> None:
    moments = [{"name": name, "valueDateTime": "2026-01-01"} for name in ("start", "end")]
    body = {"resourceType": "Parameters", "parameter": [*moments, {"name": "timing", "valueTiming": timing}]}
    with pytest.raises(Refusal) as caught:
        parse_find(parse_parameters(msgspec.json.encode(body)))
    assert caught.value.status in (400, 422)
