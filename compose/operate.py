"""One request to the controller, and the wait until the cluster shows its effect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from tenacity import RetryError

from compose.retries import poll_until_true
from compose.target import Target
from failover.client import ControllerClient
from failover.errors import ControllerError
from replication.wire.errors import WireError
from replication.wire.http import new_session

_WAIT_MS = 120_000


class Request(msgspec.Struct, frozen=True):
    """A POST to the controller: path, why, and what else the body says. `deadline_ms`: for its effect."""

    path: str
    reason: str
    extra: dict[str, Any] = {}
    deadline_ms: int = _WAIT_MS


class Outcome(msgspec.Struct, frozen=True):
    """`ok` False: refused, or not done by the deadline; the sentence says which. `after`: the cluster when it was done."""

    ok: bool
    sentence: str
    after: dict[str, Any] | None = None


async def carry_out(
    target: Target, request: Request, done: Callable[[dict[str, Any], dict[str, Any]], bool] | None
) -> Outcome:
    """Send it with the term just read; then poll until `done(before, now)`. Raises WireError, NoCluster and SecretError."""
    async with new_session() as session:
        token = await asyncio.to_thread(target.token)
        controller = ControllerClient(session, target.controller, token)
        try:
            before = await controller.cluster()
            sentence = await controller.command(request.path, before["term"], request.reason, **request.extra)
        except ControllerError as error:
            return Outcome(False, error.sentence)
        if done is None:
            return Outcome(True, sentence)

        after: dict[str, Any] = {}

        async def is_done() -> bool:
            try:
                after.update(await controller.cluster())
            except (WireError, ControllerError):
                return False
            return done(before, after)

        try:
            await poll_until_true(request.deadline_ms)(is_done)
        except RetryError:
            late = f"accepted, but not done within {request.deadline_ms // 1000} s; see `locum status`"
            return Outcome(False, f"{late} ({sentence})")
        return Outcome(True, sentence, after)
