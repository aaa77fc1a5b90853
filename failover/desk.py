"""Where operators' commands wait for the core: one a tick, each answered by the decision that took it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from failover.core.model import Command, Reply
from failover.errors import CommandUnanswered


class Desk:
    """`ask` is called by the API, `next` and `answer` by the controller's loop."""

    def __init__(self) -> None:
        self._waiting: list[Command] = []
        self._replies: dict[str, asyncio.Future[Reply]] = {}

    async def ask(self, command: Command, *, deadline_ms: int, wake: Callable[[], None]) -> Reply:
        """Put it on the desk, wake the loop, wait for the core's reply. Raises CommandUnanswered at the deadline."""
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append(command)
        self._replies[command.id] = reply
        wake()
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                return await reply
        except TimeoutError as error:
            raise CommandUnanswered(
                f"the controller did not decide on {command.kind.value} within {deadline_ms / 1000:g} s; "
                "it may still have been accepted: look at `locum status`"
            ) from error
        finally:
            del self._replies[command.id]
            self._waiting = [waiting for waiting in self._waiting if waiting.id != command.id]

    def next(self) -> tuple[Command, ...]:
        """The oldest command, or none: the core takes one a tick. It stays on the desk until it is answered."""
        return tuple(self._waiting[:1])

    def answer(self, replies: tuple[Reply, ...]) -> None:
        """Hand over what the core replied, once it is stored."""
        for reply in replies:
            self._waiting = [command for command in self._waiting if command.id != reply.id]
            waiting = self._replies.get(reply.id)
            if waiting is not None and not waiting.done():
                waiting.set_result(reply)
