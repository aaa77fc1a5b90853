"""How soon what comes back is found again: patients wait for it."""

from __future__ import annotations

import asyncio

import pytest
from tenacity import AsyncRetrying, RetryCallState

from server.retries import following, reconnecting


@pytest.mark.parametrize(
    "policy",
    [following(asyncio.Event()), reconnecting(asyncio.Event(), (OSError,), lambda: True)],
    ids=["controller", "node"],
)
@pytest.mark.parametrize("failures", [1, 2, 5, 10, 100, 10_000])
def test_however_long_it_was_away_it_is_found_within_a_tenth_of_a_second(policy: AsyncRetrying, failures: int) -> None:
    state = RetryCallState(policy, None, (), {})
    state.attempt_number = failures
    assert 0 < policy.wait(state) <= 0.1
