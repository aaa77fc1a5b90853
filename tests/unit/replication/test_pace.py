"""The search for damage slows down on busy processors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.scrub.pace import FLOOR, Pace, share, ticks


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_more_idle_is_never_slower_and_it_never_stands_still(one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert FLOOR <= share(less) <= share(more) <= 1.0
    assert share(0.0) == FLOOR
    assert share(0.5) == 1.0


@pytest.mark.parametrize(("idle", "wanted"), [(100, 1.0), (0, FLOOR), (35, 0.5)])
def test_the_share_follows_the_last_look(idle: int, wanted: float) -> None:
    now_s, told = 0.0, (0, 0)
    pace = Pace(lambda: told, lambda: now_s)
    told = (idle, 100)
    assert pace.share() == 1.0, "too early to tell"
    now_s = 1.0
    assert pace.share() == pytest.approx(wanted)
    assert pace.share() == pytest.approx(wanted)


def test_where_the_system_does_not_tell_there_is_no_brake(tmp_path: Path) -> None:
    now_s = 0.0
    pace = Pace(lambda: ticks(tmp_path / "stat"), lambda: now_s)
    now_s = 1.0
    assert pace.share() == 1.0


def test_waiting_for_a_disk_is_not_idle(tmp_path: Path) -> None:
    path = tmp_path / "stat"
    path.write_text("cpu  10 20 30 40 50 6 7 8 900 900\ncpu0 1 2 3\n")
    assert ticks(path) == (40, 171)
    path.write_text("nothing of the kind\n")
    assert ticks(path) is None


def test_this_system_tells() -> None:
    found = ticks()
    if found is None:
        pytest.skip("no /proc/stat here")
    assert 0 < found[0] < found[1]
