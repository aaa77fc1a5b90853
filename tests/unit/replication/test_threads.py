"""Blocking calls in threads of their own."""

from __future__ import annotations

import asyncio
import threading

import pytest

from replication.threads import in_thread


async def test_result_and_error_come_back() -> None:
    assert await in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 7, 0)


async def test_any_number_may_hang_without_holding_up_another() -> None:
    release = threading.Event()
    hanging = [asyncio.ensure_future(in_thread(release.wait, 30)) for _ in range(50)]
    async with asyncio.timeout(5):
        assert await in_thread(int, "7") == 7
    assert not any(task.done() for task in hanging)
    release.set()
    assert all(await asyncio.gather(*hanging))


async def test_a_cancelled_call_is_not_waited_for() -> None:
    release = threading.Event()
    task = asyncio.ensure_future(in_thread(release.wait, 30))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await task
    release.set()
