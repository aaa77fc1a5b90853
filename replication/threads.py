"""Blocking calls away from the event loop, each in a daemon thread of its own.

A call that touches a node's disk may hang for ever. In a shared pool a few of those would leave no thread for the fence,
and the process could not end before the pool's threads do; a thread of its own costs 0.1 ms and harms nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of a blocking call, or what it raised. Cancelled, it is left to end by itself, and nobody waits."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, caught = None, None
        try:
            result = context.run(function, *args, **kwargs)
        except BaseException as error:  # noqa: BLE001  raised again where it is awaited
            caught = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, caught)

    threading.Thread(target=run, name=getattr(function, "__name__", "blocking"), daemon=True).start()
    return await future
