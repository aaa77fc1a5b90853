"""A deployment that goes on after a drill: it must say itself that it may be made to fail, and how."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import msgspec

from failover.drill.errors import NotATarget, Skipped
from failover.drill.scenario import Scenario

_ASK_S = 5.0


class Target(msgspec.Struct, frozen=True):
    """What GET /v1/drill of its controller says: the ready file, and the kinds of steps that it allows."""

    ready_file: str
    allows: tuple[str, ...]

    def check(self, scenario: Scenario) -> None:
        """Raises Skipped when it does not allow one of the steps."""
        missing = sorted(scenario.kinds() - set(self.allows))
        if missing:
            raise Skipped(
                f"the deployment allows no step of kind {', '.join(missing)}; it allows {', '.join(self.allows)}"
            )


async def find_target(url: str) -> Target:
    """Ask the controller at this URL. Raises NotATarget, with what is missing."""
    try:
        timeout = aiohttp.ClientTimeout(total=_ASK_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{url.rstrip('/')}/v1/drill") as answer,
        ):
            body = await answer.read()
            if answer.status != 200:
                raise NotATarget(
                    f"{url} is not marked as a drill target ({answer.status}): start it with `locum up --drill-target`"
                )
        found = msgspec.json.decode(body, type=Target)
        if not await asyncio.to_thread(Path(found.ready_file).exists):
            raise NotATarget(f"{found.ready_file} is not on this machine: run the drill where {url} runs")
    except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
        raise NotATarget(f"{url} is no controller that answers: {error!r}; give the controller's URL") from error
    return found
