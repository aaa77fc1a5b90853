"""The read guard: every answer against the receipts, and every receipt against the database, all the time.

A row that is missing, older or altered, although somebody was told of it, is not served: the request is held, as for a
primary that died. Guilty is the primary only when its standby has the row as it was acknowledged: that is proof, and told to the
controller at once. Where the standby has it neither, nobody is replaced for it, and the alarm of lost receipts names it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import structlog

from replication.model import FaultKind, Receipt, Role
from server import store
from server.database import Database
from server.errors import NotServing, TryAgain
from server.evidence import Evidence
from server.expected import Standing
from server.link import Link
from server.pool import Pool, Spawn
from server.receipts import Receipts

_log = structlog.get_logger()

_PATROL_EVERY_S = 0.5
_PATROL_RECEIPTS = 200
_PATROL_ROWS = 300
_FIRST_ID = uuid.UUID(int=0)
_ASK_S = 2.0
_STANDBY_FOLLOWS_S = 2.0
_AGAIN_S = 0.1
_UNKNOWN = "unknown"
_CANNOT_SAY = (None, _UNKNOWN)


class WrongAnswer(NotServing):
    """The node gave a row that is not what was acknowledged: it is not served."""


def why_wrong(receipt: Receipt, version: int | None, digest: str | None) -> str | None:
    """`missing`, `older` or `altered`; None for a row that is as it was acknowledged, or newer. Pure."""
    if version is None:
        return "missing"
    if version < receipt.version:
        return "older"
    return "altered" if version == receipt.version and digest != receipt.digest else None


class Guard:
    """`check` every row that is about to be answered; `run` the patrol. `doubted`: when no node has a row, compares all receipts
    with the primary, puts back what can be, and returns then."""

    def __init__(
        self,
        database: Database,
        receipts: Receipts,
        evidence: Evidence,
        spawn: Spawn,
        doubted: Callable[[], Awaitable[None]],
    ) -> None:
        self.refused = 0
        self.convicted = 0
        self._database = database
        self._receipts = receipts
        self._evidence = evidence
        self._spawn = spawn
        self._doubted = doubted
        self._asking: set[str] = set()
        self._given_up: dict[str, int] = {}
        """Versions that no node has: a person was told."""
        self._unsealed: set[str] = set()
        """Rows that fit their seal on no node: a person was told."""
        self._at = 0
        self._seal_at = _FIRST_ID

    def check(self, link: Link, rows: Sequence[Any], began_s: float, *, wanted: str | None = None) -> None:
        """Rows with id, version and digest, that this link gave for a question which began then (time.monotonic); `wanted`:
        the one that was asked for. A standby may be behind, and is judged by the seal alone. Raises WrongAnswer."""
        shown = {str(row["id"]): row for row in rows}
        for name, row in shown.items():
            if row["broken"]:
                self.refused += 1
                self._suspect_seal(name, link.endpoint.role)
                raise WrongAnswer(
                    f"{link.endpoint.name} shows an appointment that does not fit its seal: it is not served"
                )
        for name in dict.fromkeys([*shown, *([wanted] if wanted is not None else [])]):
            receipt = self._receipts.known_before(name, began_s)
            if receipt is None:
                continue
            row = shown.get(name)
            why = why_wrong(receipt, row["version"] if row else None, row["digest"] if row else None)
            if why is None or (why != "altered" and link.endpoint.role is not Role.PRIMARY):
                continue
            self.refused += 1
            if link.endpoint.role is Role.PRIMARY:
                self._suspect(receipt)
            raise WrongAnswer(f"{link.endpoint.name} shows an appointment that is {why}: it is not served")

    def suspect(self, standing: Sequence[Standing]) -> None:
        """One of these, which are in the way of a booking, is not there; which, the confirmation tells."""
        for one in standing:
            receipt = self._receipts.known_before(one.id, time.monotonic())
            if receipt is not None:
                self.refused += 1
                self._suspect(receipt)

    async def check_search(self, link: Link, kind: str, actor: str, rows: Sequence[Any], deadline_s: float) -> None:
        """A search by this Patient or Practitioner leaves nobody out: of those who should fit and are not among the rows, none
        has vanished from the primary. Raises WrongAnswer, and what a read raises."""
        if link.endpoint.role is not Role.PRIMARY:
            return
        shown = {str(row["id"]) for row in rows}
        standing = [one for one in self._receipts.expected.of_actor(kind, actor) if one.id not in shown]
        receipts = [self._receipts.known_before(one.id, time.monotonic()) for one in standing]
        asked = [{"id": one.id, "version": one.version, "digest": one.digest} for one in receipts if one is not None]
        if not asked:
            return
        missing = await link.fetch(store.MISSING, msgspec.json.encode(asked).decode(), deadline_s=deadline_s)
        gone = {str(row["id"]) for row in missing}
        if gone:
            self.suspect([one for one in standing if one.id in gone])
            raise WrongAnswer(f"{link.endpoint.name} does not show what was acknowledged: nothing is served")

    async def run(self) -> None:
        """Compare receipts with the primary, some at a time, until cancelled."""
        while True:
            await asyncio.sleep(_PATROL_EVERY_S)
            pool = self._database.primary
            if pool is None:
                continue
            for receipt in await self._wrong(pool, self._next()):
                self._suspect(receipt)
            for name in await self._broken(pool):
                self._suspect_seal(name, Role.PRIMARY)

    def _next(self) -> list[Receipt]:
        receipts = self._receipts.newest()
        if self._at >= len(receipts):
            self._at = 0
        part = receipts[self._at : self._at + _PATROL_RECEIPTS]
        self._at += len(part)
        return part

    async def _wrong(self, pool: Pool, receipts: list[Receipt]) -> list[Receipt]:
        """Those that this node does not bear out; none when it cannot be asked now."""
        asked = msgspec.json.encode([{"id": one.id, "version": one.version, "digest": one.digest} for one in receipts])
        try:
            async with pool.link(_ASK_S) as link:
                rows = await link.fetch(store.MISSING, asked.decode(), deadline_s=_ASK_S)
        except TryAgain:
            return []
        wrong = {str(row["id"]) for row in rows}
        return [one for one in receipts if one.id in wrong]

    async def _broken(self, pool: Pool) -> list[str]:
        """Of the next rows, with a receipt or without, those that do not fit their seal."""
        try:
            async with pool.link(_ASK_S) as link:
                rows = await link.fetch(store.BROKEN_SEALS, self._seal_at, _PATROL_ROWS, deadline_s=_ASK_S)
        except TryAgain:
            return []
        self._seal_at = rows[-1]["id"] if len(rows) == _PATROL_ROWS else _FIRST_ID
        return [str(row["id"]) for row in rows if row["broken"]]

    def _suspect_seal(self, name: str, role: Role) -> None:
        if role is Role.PRIMARY and name not in self._asking and name not in self._unsealed:
            self._asking.add(name)
            self._spawn(self._confirm_seal(name))

    async def _confirm_seal(self, name: str) -> None:
        """Guilty is the primary when its standby has the row under a seal that fits."""
        try:
            pool = self._database.primary
            if pool is None or await self._is_broken(pool, name) is not True:
                return
            standby = self._database.standby()
            if standby is not None and await self._is_broken(standby, name) is False:
                self._convict_of(pool, name, "altered", "does not fit its seal")
                return
            _log.error("server.row_sealed_nowhere", node=pool.endpoint.name)
            self._unsealed.add(name)
            await self._doubted()
        finally:
            self._asking.discard(name)

    async def _is_broken(self, pool: Pool, name: str) -> bool | None:
        """None when the row is not there, has no seal, or the node does not answer."""
        try:
            async with pool.link(_ASK_S) as link:
                rows = await link.fetch(store.BROKEN_SEAL, uuid.UUID(name), deadline_s=_ASK_S)
        except TryAgain:
            return None
        return rows[0]["broken"] if rows else None

    def _suspect(self, receipt: Receipt) -> None:
        if receipt.id not in self._asking and self._given_up.get(receipt.id, 0) < receipt.version:
            self._asking.add(receipt.id)
            self._spawn(self._confirm(receipt))

    async def _confirm(self, receipt: Receipt) -> None:
        try:
            pool = self._database.primary
            if pool is None or await self._why(pool, receipt) in _CANNOT_SAY:
                return
            found = await self._standby_has(receipt)
            why = await self._why(pool, receipt)
            if why in _CANNOT_SAY or pool.is_closed:
                return
            if found:
                self._convict(pool, receipt, str(why))
            else:
                _log.error("server.row_nowhere", node=pool.endpoint.name, why=why)
                await self._doubted()
                if await self._why(pool, receipt) not in _CANNOT_SAY:
                    self._given_up[receipt.id] = receipt.version
                    self._receipts.expected.forget(receipt.id)
        finally:
            self._asking.discard(receipt.id)

    async def _standby_has(self, receipt: Receipt) -> bool:
        """It may have to replay up to there first."""
        until_s = time.monotonic() + _STANDBY_FOLLOWS_S
        while time.monotonic() < until_s:
            standby = self._database.standby()
            if standby is not None and await self._why(standby, receipt) is None:
                return True
            await asyncio.sleep(_AGAIN_S)
        return False

    async def _why(self, pool: Pool, receipt: Receipt) -> str | None:
        """What is wrong with this row there. A node that does not answer bears nothing out: `unknown`."""
        asked = msgspec.json.encode([{"id": receipt.id, "version": receipt.version, "digest": receipt.digest}])
        try:
            async with pool.link(_ASK_S) as link:
                rows = await link.fetch(store.MISSING, asked.decode(), deadline_s=_ASK_S)
        except TryAgain:
            return _UNKNOWN
        return str(rows[0]["why"]) if rows else None

    def _convict(self, pool: Pool, receipt: Receipt, why: str) -> None:
        self._convict_of(pool, receipt.id, why, f"version {receipt.version}")

    def _convict_of(self, pool: Pool, name: str, why: str, value: str) -> None:
        kind = FaultKind.SEAL_MISMATCH if why == "altered" else FaultKind.ROW_MISSING
        self.convicted += 1
        sentence = f"an acknowledged appointment is {why} on {pool.endpoint.name}, and its standby has it as it was acknowledged"
        _log.error("server.row_wrong", node=pool.endpoint.name, why=why)
        self._evidence.row_wrong(kind, sentence, f"appointment {name}, {value}")
