"""The controller as others call it: commands, cluster, incidents. Each call with a deadline.

Every method raises ControllerError when the controller refuses or cannot answer now, WireError when none is reached.
"""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec

from failover.errors import ControllerError
from failover.retries import becoming_ready
from replication.wire.errors import WireError
from replication.wire.http import get_bytes, post_json

_READ_MS = 2_000
_COMMAND_MS = 10_000


class _Said(msgspec.Struct, frozen=True):
    sentence: str = ""


class ControllerClient:
    """Calls to one controller. The session is shared and belongs to the caller; reads need no token."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str | None = None) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._token = token

    async def cluster(self) -> dict[str, Any]:
        """GET /v1/cluster (failover/cluster_view.py)."""
        found: dict[str, Any] = await self._get("/v1/cluster")
        return found

    async def incidents(self) -> list[dict[str, Any]]:
        """Every incident, newest last (failover/incidents.py)."""
        found: list[dict[str, Any]] = await self._get("/v1/incidents")
        return found

    async def incident(self, incident: str) -> dict[str, Any]:
        """One incident, whole. ControllerError 404 when there is none of that id."""
        found: dict[str, Any] = await self._get(f"/v1/incidents/{incident}")
        return found

    async def close_incident(self, incident: str, expected_term: int, note: str) -> str:
        """Close an open incident by hand."""
        return await self.command(f"/v1/incidents/{incident}/close", expected_term, "", note=note)

    async def command(self, path: str, expected_term: int, reason: str, **extra: Any) -> str:
        """POST an action (`/v1/switchover`, `/v1/nodes/b/fence`): the sentence with which it was accepted."""
        body = {"expected_term": expected_term, "reason": reason, **extra}
        status, answer = await post_json(
            self._session, self._url + path, body, token=self._token, deadline_ms=_COMMAND_MS
        )
        if status >= 300:
            raise self._refused(path, status, answer)
        return _sentence(answer)

    async def ready(self, *, deadline_ms: int) -> None:
        """Return once it leads and has looked at the agents. The last WireError or ControllerError at the deadline."""
        await becoming_ready(deadline_ms)(self._get, "/readyz")

    async def _get(self, path: str) -> Any:
        status, body = await get_bytes(self._session, self._url + path, deadline_ms=_READ_MS)
        if status != 200:
            raise self._refused(path, status, body)
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError as error:
            raise WireError(f"{self._url}{path} answered what no controller answers: {error}", "error") from error

    def _refused(self, path: str, status: int, body: bytes) -> ControllerError:
        return ControllerError(status, _sentence(body) or f"{self._url}{path} was answered with {status}")


def _sentence(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Said).sentence
    except (msgspec.DecodeError, msgspec.ValidationError):
        return ""
