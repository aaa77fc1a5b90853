"""The receipts of every server, for the lone rule: the controller hands them to the agent of a primary that is still closed."""

from __future__ import annotations

import asyncio

import aiohttp
import msgspec

from replication.actions import Action, CheckReceipts
from replication.model import Receipt
from replication.wire.errors import WireError
from replication.wire.http import get_bytes

_ASK_MS = 1_500
"""Less than the time to live of the action that carries them."""


class _Receipts(msgspec.Struct):
    receipts: tuple[Receipt, ...]


class ServerReceipts:
    """Asks all servers of the settings; one that does not answer leaves it unknown what was acknowledged."""

    def __init__(self, session: aiohttp.ClientSession, urls: list[str], token: str) -> None:
        self._session = session
        self._urls = urls
        self._token = token

    async def attached(self, action: Action) -> Action:
        """The action, with the receipts if it is to carry them. Raises WireError when a server cannot be asked."""
        if not isinstance(action.op, CheckReceipts):
            return action
        op = msgspec.structs.replace(action.op, receipts=await self.newest())
        return msgspec.structs.replace(action, op=op)

    async def newest(self) -> tuple[Receipt, ...]:
        """The newest receipt of each id, over all servers. Raises WireError."""
        if not self._urls:
            raise WireError(
                "the controller's settings name no server (server_urls): nobody knows what was acknowledged", "error"
            )
        found: dict[str, Receipt] = {}
        for receipts in await asyncio.gather(*map(self._ask, self._urls)):
            for receipt in receipts:
                known = found.get(receipt.id)
                if known is None or receipt.version > known.version:
                    found[receipt.id] = receipt
        return tuple(found.values())

    async def _ask(self, url: str) -> tuple[Receipt, ...]:
        path = f"{url.rstrip('/')}/internal/receipts"
        status, body = await get_bytes(self._session, path, token=self._token, deadline_ms=_ASK_MS)
        if status != 200:
            raise WireError(f"{path} answered {status}", "error")
        try:
            return msgspec.json.decode(body, type=_Receipts).receipts
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise WireError(f"{path} answered what no server answers: {error}", "error") from error
