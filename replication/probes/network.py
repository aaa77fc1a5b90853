"""The network probe: does a port accept a TCP connection now."""

from __future__ import annotations

import asyncio
import contextlib


async def tcp_witness(host: str, port: int, deadline_ms: int) -> str:
    """`connected`, `refused`, `timeout` or `error`, within the deadline. Says nothing of what answers behind it."""
    try:
        async with asyncio.timeout(deadline_ms / 1000):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return "timeout"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "error"
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return "connected"
