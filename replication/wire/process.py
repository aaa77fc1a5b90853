"""How a process of Locum starts, listens and ends."""

from __future__ import annotations

import asyncio
import errno
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar

import structlog
import uvloop
from aiohttp import web

from replication.wire import log
from replication.wire.errors import PortOccupied, SecretError

_log = structlog.get_logger()
_signal: ContextVar[asyncio.Future[signal.Signals] | None] = ContextVar("signal", default=None)


@asynccontextmanager
async def listening(
    app: web.Application, host: str, port: int, *, shutdown_ms: int = 500, reuse_port: bool = False
) -> AsyncIterator[None]:
    """Serve `app` while the block runs; at its end requests under way get `shutdown_ms`. `reuse_port`: others of this account
    may listen there too (SO_REUSEPORT, socket(7)). Raises PortOccupied."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=shutdown_ms / 1000)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, reuse_address=True, reuse_port=reuse_port)
        try:
            await site.start()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise PortOccupied(f"{host}:{port} is in use by another process; stop it or choose another port") from error
        yield
    finally:
        await runner.cleanup()


async def until_signal() -> signal.Signals:
    """Wait for SIGTERM or SIGINT, and return which.

    Under `run` a signal counts from the very start, and a second one changes nothing: a process that is told to stop
    while it starts stops in order, and so does one that is told twice.
    """
    return await asyncio.shield(_signal.get() or _listen_for_signals())


def _listen_for_signals() -> asyncio.Future[signal.Signals]:
    loop = asyncio.get_running_loop()
    came: asyncio.Future[signal.Signals] = loop.create_future()

    def note(number: signal.Signals) -> None:
        if not came.done():
            came.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, note, number)
    return came


def run(main: Callable[[], Awaitable[int]], process: str, *, expected: tuple[type[Exception], ...] = ()) -> int:
    """Run a process's main coroutine under uvloop with logging set up, and return its exit code.

    `expected` errors (and an occupied port, an unusable secret) end it with 1 and their sentence; anything else is
    logged with its traceback, and 1 too.
    """
    log.configure(process)

    async def guarded() -> int:
        _signal.set(_listen_for_signals())
        return await main()

    known: tuple[type[Exception], ...] = (PortOccupied, SecretError, *expected)
    try:
        return uvloop.run(guarded())
    except known as error:
        _log.error("process.failed", sentence=str(error))
        print(f"{process}: {error}", file=sys.stderr)
        return 1
    except Exception:  # noqa: BLE001  the process's outermost frame: logged, and the exit code says so
        _log.exception("process.crashed")
        return 1
