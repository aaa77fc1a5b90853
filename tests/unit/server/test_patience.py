"""Waiting for a future until a time."""

from __future__ import annotations

import asyncio

import pytest

from server.patience import within


async def test_what_is_settled_in_time_is_given() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.01, future.set_result, 7)
    assert await within(future, 5) == 7
    failed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    failed.set_exception(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await within(failed, 5)


async def test_what_is_late_is_given_up_and_can_be_seen_to_be() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with pytest.raises(TimeoutError):
        await within(future, 0.01)
    assert future.done()


async def test_a_waiter_that_is_cancelled_leaves_no_timer_behind() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiter = asyncio.ensure_future(within(future, 0.02))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    await asyncio.sleep(0.04)
    assert future.cancelled()
