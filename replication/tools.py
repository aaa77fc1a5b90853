"""Running PostgreSQL's command-line tools: an argument vector, a deadline, what it said."""

from __future__ import annotations

import asyncio
import contextlib

from replication.errors import ActionFailed
from replication.model import Reason
from replication.postmaster import clean_environment

_SAID_CHARS_MAX = 400
_REAPED_S = 1.0


async def run_tool(
    command: list[str], *, deadline_s: float, warnings: bool = False, codes: tuple[int, ...] = (0,)
) -> bytes:
    """Standard output of a tool that ended with one of `codes`; with `warnings` its standard error in the same stream.

    Raises ActionFailed: FAILED with the tool's last words, DEADLINE when it was killed because it took too long.
    Cancelling kills the tool too.
    """
    name = next((part for part in command if "/pg_" in part or "/initdb" in part), command[0]).rpartition("/")[2]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT if warnings else asyncio.subprocess.PIPE,
        start_new_session=True,
        env=clean_environment(),
        cwd="/",
    )
    try:
        async with asyncio.timeout(deadline_s):
            output, errors = await process.communicate()
    except TimeoutError as error:
        raise ActionFailed(Reason.DEADLINE, f"{name} did not end within {deadline_s:g} s and was killed") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REAPED_S):  # one that waits for a hung disk cannot die yet
                    await process.wait()
    if process.returncode not in codes:
        said = " ".join((errors or output).decode(errors="replace").split())[-_SAID_CHARS_MAX:]
        raise ActionFailed(Reason.FAILED, f"{name} failed with code {process.returncode}: {said}")
    return output
