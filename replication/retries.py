"""Every retry and every poll of the node side: a tenacity policy with a deadline, all in this file."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
from tenacity import (
    AsyncRetrying,
    RetryError,
    retry_if_exception,
    retry_if_exception_type,
    retry_if_result,
    stop_after_delay,
    wait_fixed,
)

from replication.errors import SQL_ERRORS, ActionFailed
from replication.model import Reason


async def until(
    condition: Callable[[], Awaitable[bool]],
    *,
    every_ms: int,
    deadline_ms: int,
    sentence: str,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Poll until the condition holds. Raises ActionFailed(DEADLINE, sentence); what the condition raises passes.

    `pause` takes the place of a sleep between two polls, and may end early when an event tells that it is time.
    """
    policy = AsyncRetrying(
        sleep=pause,
        wait=wait_fixed(every_ms / 1000),
        stop=stop_after_delay(deadline_ms / 1000),
        retry=retry_if_result(_is_false),
    )
    try:
        await policy(condition)
    except RetryError as error:
        raise ActionFailed(Reason.DEADLINE, f"{sentence} (waited {deadline_ms} ms)") from error


def connecting(is_running: Callable[[], bool], *, every_ms: int = 10, deadline_ms: int = 5_000) -> AsyncRetrying:
    """Try to connect again while the server starts; the last error is raised at the deadline, or when no server runs."""
    return AsyncRetrying(
        wait=wait_fixed(every_ms / 1000),
        stop=stop_after_delay(deadline_ms / 1000),
        retry=retry_if_exception_type(SQL_ERRORS) & retry_if_exception(lambda _error: is_running()),
        reraise=True,
    )


def _is_false(result: bool) -> bool:
    return not result


def replay_conflicts(*, every_ms: int = 500, deadline_ms: int = 60_000) -> AsyncRetrying:
    """Run a standby's query again when replay had to cancel it (PostgreSQL documentation, section 26.4.2)."""
    return AsyncRetrying(
        wait=wait_fixed(every_ms / 1000),
        stop=stop_after_delay(deadline_ms / 1000),
        retry=retry_if_exception_type(asyncpg.SerializationError),
        reraise=True,
    )


def lock_refused(*, every_ms: int = 200, deadline_ms: int = 5_000) -> AsyncRetrying:
    """Ask for a lock again that was not to be had within `lock_timeout`: whoever waits for a lock holds up all who come later."""
    return AsyncRetrying(
        wait=wait_fixed(every_ms / 1000),
        stop=stop_after_delay(deadline_ms / 1000),
        retry=retry_if_exception_type(asyncpg.LockNotAvailableError),
        reraise=True,
    )
