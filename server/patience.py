"""Waiting for a future of our own until a time, for a tenth of what asyncio.wait costs: every booking waits twice."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def within(future: asyncio.Future[T], seconds: float) -> T:
    """Its result, or what it raised. Raises TimeoutError after so many seconds, and the future itself ends with that: whoever
    would have settled it must look whether it is done."""
    handle = asyncio.get_running_loop().call_later(max(0.0, seconds), _give_up, future)
    try:
        return await future
    finally:
        handle.cancel()


def _give_up(future: asyncio.Future[T]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
