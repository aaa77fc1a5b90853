"""The retry policies of `locum up` and of the command line, each with its deadline (tenacity)."""

from __future__ import annotations

from tenacity import AsyncRetrying, retry_if_exception_type, retry_if_result, stop_after_delay, wait_fixed

from replication.wire.errors import WireError

_POLL_S = 0.05


def poll_until_true(deadline_ms: int) -> AsyncRetrying:
    """Ask every 50 ms until the answer is true; tenacity.RetryError at the deadline."""
    return AsyncRetrying(
        retry=retry_if_result(lambda answer: answer is not True),
        wait=wait_fixed(_POLL_S),
        stop=stop_after_delay(deadline_ms / 1000),
    )


def follow_stream(deadline_ms: int) -> AsyncRetrying:
    """Come back to a stream that ended, every 250 ms; the last WireError at the deadline."""
    return AsyncRetrying(
        retry=retry_if_exception_type(WireError),
        wait=wait_fixed(0.25),
        stop=stop_after_delay(deadline_ms / 1000),
        reraise=True,
    )
