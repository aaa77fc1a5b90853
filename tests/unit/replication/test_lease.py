"""When an open primary must fence itself: a pure question."""

from __future__ import annotations

import pytest

from replication.lease import WAKING_MS, excused, must_fence


@pytest.mark.parametrize(
    ("left_ms", "names", "heartbeat_age_ms", "fences"),
    [
        (1, ("b_g1",), None, False),  # named primary lately
        (0, (), None, False),  # it waits for nobody: alone, by the highest revision that it holds
        (-9_000, ("b_g1",), 2_999, False),  # the standby confirms: nobody else was promoted
        (0, ("b_g1",), 3_000, True),
        (0, ("b_g1",), None, True),
    ],
)
def test_only_an_expired_lease_with_a_barrier_that_does_not_answer_fences(
    left_ms: int, names: tuple[str, ...], heartbeat_age_ms: int | None, fences: bool
) -> None:
    why = must_fence(left_ms=left_ms, names=names, heartbeat_age_ms=heartbeat_age_ms, ttl_ms=3_000)
    assert (why is not None) is fences
    if why is not None:
        assert "b_g1" in why


@pytest.mark.parametrize(
    ("slept_ms", "excused_ms", "heard_ms", "listens"),
    [
        (50, None, None, False),  # it looked in time
        (WAKING_MS, None, None, True),
        (60_000, 1_000, 1_001, True),  # heard since the last time
        (60_000, 1_000, 1_000, False),  # starved again, and nothing heard in between
        (60_000, 1_000, None, False),
    ],
)
def test_an_agent_that_slept_listens_once_before_it_judges(
    slept_ms: int, excused_ms: int | None, heard_ms: int | None, listens: bool
) -> None:
    assert excused(slept_ms=slept_ms, excused_ms=excused_ms, heard_ms=heard_ms) is listens
