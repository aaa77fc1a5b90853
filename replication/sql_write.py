"""Database writes with a deadline that never cancels them: a cancelled wait for the standby looks like a commit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

import asyncpg

from replication.errors import ActionFailed
from replication.model import Reason

T = TypeVar("T")


async def bounded(connection: asyncpg.Connection, work: Coroutine[Any, Any, T], *, deadline_s: float, what: str) -> T:
    """The result of `work`, a write on `connection`.

    asyncpg sends a cancel request when a statement's time-out or task ends early, and a cancelled wait for synchronous
    replication commits locally and reports success. So nothing here cancels: at the deadline, or when the caller is
    cancelled, the connection is terminated and the outcome is unknown. Raises ActionFailed(DEADLINE).
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=deadline_s)
    except asyncio.CancelledError:
        await _abandon(connection, task)
        raise
    if not done:
        await _abandon(connection, task)
        raise ActionFailed(Reason.DEADLINE, f"{what} did not return within {deadline_s:g} s; its outcome is unknown")
    return task.result()


async def _abandon(connection: asyncpg.Connection, task: asyncio.Future[T]) -> None:
    connection.terminate()
    with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        await asyncio.shield(task)
