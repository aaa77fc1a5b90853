"""Where operators' commands wait for the core: one a tick, each answered by the decision that took it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from failover.core.model import Command, Reply
from failover.errors import CommandUnanswered


class Desk:
    """`ask` is called by the API, `next` and `answer` by the controller's loop."""

    def __init__(self) -> None:
        self._waiting: deque[Command] = deque()
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
            if command in self._waiting:
                self._waiting.remove(command)

    def next(self) -> tuple[Command, ...]:
        """The oldest command that somebody still waits for; none or one, as the core takes one a tick."""
        return (self._waiting.popleft(),) if self._waiting else ()

    @property
    def is_empty(self) -> bool:
        """No command waits for its tick."""
        return not self._waiting

    def answer(self, replies: tuple[Reply, ...]) -> None:
        """Hand over what the core replied, once it is stored."""
        for reply in replies:
            waiting = self._replies.get(reply.id)
            if waiting is not None and not waiting.done():
                waiting.set_result(reply)
