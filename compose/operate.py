"""One request to the controller, and the wait until the cluster shows its effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
from tenacity import RetryError

from compose.errors import ComposeError
from compose.retries import poll_until_true
from compose.target import Target
from replication.wire.errors import WireError
from replication.wire.http import get_bytes, new_session, post_json

_ASK_MS = 2_000
_COMMAND_MS = 10_000
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


class _Answer(msgspec.Struct, frozen=True):
    sentence: str = ""


async def carry_out(
    target: Target, request: Request, done: Callable[[dict[str, Any], dict[str, Any]], bool] | None
) -> Outcome:
    """Send it with the term just read; then poll until `done(before, now)`. Raises WireError and ComposeError."""
    async with new_session() as session:
        before = await read_cluster(session, target.controller)
        body = {"expected_term": before["term"], "reason": request.reason, **request.extra}
        status, answer = await post_json(
            session, f"{target.controller}{request.path}", body, token=target.token(), deadline_ms=_COMMAND_MS
        )
        sentence = _sentence(answer) or f"{request.path} was answered with {status}"
        if status >= 300:
            return Outcome(False, sentence)
        if done is None:
            return Outcome(True, sentence)

        after: dict[str, Any] = {}

        async def is_done() -> bool:
            try:
                after.update(await read_cluster(session, target.controller))
                return done(before, after)
            except WireError:
                return False

        try:
            await poll_until_true(request.deadline_ms)(is_done)
        except RetryError:
            late = f"accepted, but not done within {request.deadline_ms // 1000} s; see `locum status`"
            return Outcome(False, f"{late} ({sentence})")
        return Outcome(True, sentence, after)


async def read_cluster(session: aiohttp.ClientSession, controller: str) -> dict[str, Any]:
    """GET /v1/cluster. Raises WireError when no controller answers, ComposeError when it cannot say."""
    status, body = await get_bytes(session, f"{controller}/v1/cluster", deadline_ms=_ASK_MS)
    if status != 200:
        raise ComposeError(
            f"the controller at {controller} cannot tell the cluster's state: {_sentence(body) or status}"
        )
    return msgspec.json.decode(body, type=dict[str, Any])


def _sentence(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Answer).sentence
    except (msgspec.DecodeError, msgspec.ValidationError):
        return ""
