"""Every retry of the server: tenacity policies, each with its end, all in this file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    stop_when_event_set,
    wait_exponential,
    wait_fixed,
    wait_none,
)

from replication.wire.errors import WireError
from server.errors import DatabaseConflict, NotServing, OutcomeUnknown, TryAgain

_log = structlog.get_logger()

_CHECK_EVERY_S = 0.003
_RECONNECT_FIRST_S = 0.01
_RECONNECT_MAX_S = 0.1
_DAMAGED_FIRST_S = 0.01
_DAMAGED_MAX_S = 0.25
_FOLLOW_MAX_S = 0.1
"""A controller that died takes half a second to start again; the pause after that is what patients wait for."""
_CHECK_AGAIN_FIRST_S = 0.05
_CHECK_AGAIN_MAX_S = 1.0


def once_more_after_deadlock() -> AsyncRetrying:
    """A deadlock between two constraints is tried once more; then it is a conflict as any other."""
    return AsyncRetrying(
        retry=retry_if_exception(_is_deadlock), stop=stop_after_attempt(2), wait=wait_none(), reraise=True
    )


def _is_deadlock(error: BaseException) -> bool:
    return isinstance(error, DatabaseConflict) and error.is_deadlock


def replaying(deadline_s: float) -> AsyncRetrying:
    """Run an operation again until it has an answer; the last TryAgain at the deadline.

    There is no pause where waiting for a connection is the pause; a node that answers but does not serve gets one.
    """
    return AsyncRetrying(
        retry=retry_if_exception_type(TryAgain),
        stop=stop_after_delay(deadline_s),
        wait=_pause,
        before_sleep=_tell,
        reraise=True,
    )


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, NotServing | OutcomeUnknown):
        return wait_exponential(multiplier=_DAMAGED_FIRST_S, max=_DAMAGED_MAX_S)(state)
    return 0.0


def _tell(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    _log.info("server.replayed", attempt=state.attempt_number, cause=type(error).__name__)


class Closing(Protocol):
    """What ends a policy from outside."""

    def is_set(self) -> bool:
        """True once nothing more is to be tried."""


def reconnecting(
    closing: asyncio.Event, errors: tuple[type[BaseException], ...], may_retry: Callable[[], bool]
) -> AsyncRetrying:
    """Connect to a node until it works or the pool is closed: at once, then after 10 ms, doubling up to 100 ms.

    `may_retry` is asked after a failure; when it says no, the failure is raised.
    """
    return AsyncRetrying(
        retry=retry_if_exception(lambda error: isinstance(error, errors) and may_retry()),
        stop=stop_when_event_set(closing),  # type: ignore[arg-type]  # it asks is_set(), which asyncio's event has too
        wait=wait_exponential(multiplier=_RECONNECT_FIRST_S, max=_RECONNECT_MAX_S),
        reraise=True,
    )


def checking() -> AsyncRetrying:
    """Compare receipts again when the connection ended: after 50 ms, doubling up to a second, until it is done or not
    needed any more."""
    return AsyncRetrying(
        retry=retry_if_exception_type(TryAgain),
        wait=wait_exponential(multiplier=_CHECK_AGAIN_FIRST_S, max=_CHECK_AGAIN_MAX_S),
        reraise=True,
    )


def until_term_fits(deadline_s: float) -> AsyncRetrying:
    """Right after a promotion the node may show the old term for some milliseconds: ask every 3 ms."""
    return AsyncRetrying(
        retry=retry_if_exception_type(NotServing),
        stop=stop_after_delay(deadline_s),
        wait=wait_fixed(_CHECK_EVERY_S),
        reraise=True,
    )


def following(closing: asyncio.Event) -> AsyncRetrying:
    """Come back to the controller's stream until the server ends: at once, then up to every 100 ms."""
    return AsyncRetrying(
        retry=retry_if_exception_type(WireError),
        stop=stop_when_event_set(closing),  # type: ignore[arg-type]  # as above
        wait=wait_exponential(multiplier=0.02, max=_FOLLOW_MAX_S),
        reraise=True,
    )
