"""Rate limits and admission: pure, with a clock of the test's own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.limits import Admission, RateLimit


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_caller_may_so_much_at_once_and_then_at_the_pace_and_takes_nothing_from_others() -> None:
    clock = Clock()
    limit = RateLimit(2.0, 3, clock)
    assert [limit.take("ada").is_allowed for _ in range(4)] == [True, True, True, False]
    assert limit.take("bob").is_allowed
    refused = limit.take("ada")
    assert (refused.left, refused.reset_s) == (0, 1)
    clock.now_s += 0.5
    assert limit.take("ada").is_allowed
    assert not limit.take("ada").is_allowed
    clock.now_s += 60
    assert limit.take("ada").left == 2
    assert limit.policy == '"default";q=3;w=2'


@given(st.lists(st.floats(0, 2), max_size=60), st.integers(1, 5))
def test_nobody_gets_more_than_burst_and_pace(pauses: list[float], burst: int) -> None:
    clock = Clock()
    limit = RateLimit(1.0, burst, clock)
    allowed = 0
    for pause in pauses:
        clock.now_s += pause
        allowed += limit.take("ada").is_allowed
    assert allowed <= burst + sum(pauses) + 1e-6


def busy(admission: Admission, clock: Clock, rate: float, seconds: float) -> None:
    """Writes are answered at this pace while others wait."""
    step_s = 0.1
    for _ in range(round(seconds / step_s)):
        clock.now_s += step_s
        admission.answered(round(rate * step_s), 100)


def test_what_does_not_fit_is_refused_by_the_pace_that_was_measured() -> None:
    clock = Clock()
    admission = Admission(1_000, 50, clock)
    admission.answered(1, 100)
    busy(admission, clock, 200, 20)
    assert admission.admits(150)
    assert not admission.admits(260)
    assert admission.refused == 1
    busy(admission, clock, 2_000, 20)
    assert admission.admits(1_500), "it has become faster"


def test_whoever_waited_for_the_new_primary_is_not_refused_when_it_comes() -> None:
    clock = Clock()
    admission = Admission(1_000, 50, clock)
    assert not admission.admits(5_000)
    admission.pardon()
    assert admission.admits(5_000)
    clock.now_s += 6
    assert not admission.admits(5_000)


def test_an_idle_server_is_not_taken_for_a_slow_one_and_the_first_always_fit() -> None:
    clock = Clock()
    admission = Admission(1_000, 50, clock)
    for _ in range(100):
        clock.now_s += 10
        admission.answered(1, 0)
    assert admission.admits(400)
    busy(admission, clock, 1, 100)
    assert admission.admits(49)
    assert not admission.admits(50)
