"""Checks of one relation at a time, in rotation: amcheck, and whether its file is there.

They work on a primary and on a standby, and see shared buffers, not the disk (DESIGN section 5, other checks). Between two looks
the service waits for many times as long as the last one took, so that they never cost more than their share.
"""

from __future__ import annotations

import asyncio

import asyncpg

from replication.faults import MISMATCH
from replication.local_node import LocalNode
from replication.model import FaultKind, Place
from replication.scrub.findings import Findings
from replication.scrub.rotation import Rotation, Target
from replication.threads import in_thread

_MISSING_AGAIN, _PAUSE_S = 4, 0.15
_KINDS, _TABLES = "ritmS", "rtm"
_STILL = "SELECT pg_relation_filepath($1::bigint::oid)"
_BTREE = "SELECT bt_index_check($1::bigint::oid::regclass, true)"
_GIN = "SELECT gin_index_check($1::bigint::oid::regclass)"
_HEAP = "SELECT blkno, msg FROM verify_heapam($1::bigint::oid::regclass, check_toast => true) LIMIT 5"
_GIN_SINCE = 18


class RelationChecks:
    """What is looked at in `rotation`."""

    def __init__(self, local: LocalNode, findings: Findings) -> None:
        self._local = local
        self._findings = findings
        self.rotation = Rotation(local, _KINDS, self._check)

    async def _check(self, connection: asyncpg.Connection, target: Target) -> None:
        """One relation: its file, its structure."""
        await self._file(connection, target)
        try:
            await self._structure(connection, target)
        except (asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError) as error:
            is_index = isinstance(error, asyncpg.IndexCorruptedError) or MISMATCH in str(error)
            kind = FaultKind.INDEX_CORRUPT if is_index else FaultKind.PAGE_CORRUPT
            self._add(kind, target, f"{target.name} is damaged: {error}", "amcheck", str(error))

    async def _structure(self, connection: asyncpg.Connection, target: Target) -> None:
        if target.kind == "i":
            if target.method == "btree" and target.is_valid:
                await connection.execute(_BTREE, target.oid)
            elif target.method == "gin" and connection.get_server_version().major >= _GIN_SINCE:
                await connection.execute(_GIN, target.oid)
            return
        if target.kind not in _TABLES:
            return
        found = await connection.fetch(_HEAP, target.oid)
        if found:
            said = f"block {found[0]['blkno']}: {found[0]['msg']}"
            place = Place(path=target.path, block=found[0]["blkno"])
            self._add(FaultKind.PAGE_CORRUPT, target, f"{target.name} is damaged at {said}", "amcheck", said, place)

    async def _file(self, connection: asyncpg.Connection, target: Target) -> None:
        """A relation that the catalog knows has a file, unless it was dropped or rewritten meanwhile."""
        for _ in range(_MISSING_AGAIN):
            if await in_thread((self._local.node.data_dir / target.path).exists):
                return
            await asyncio.sleep(_PAUSE_S)
            if await connection.fetchval(_STILL, target.oid) != target.path:
                return
        sentence = f"the file of {target.name} is gone from the disk"
        self._add(FaultKind.PAGE_CORRUPT, target, sentence, "look at the directory", target.path)

    def _add(
        self, kind: FaultKind, target: Target, sentence: str, what: str, value: str, place: Place | None = None
    ) -> None:
        self._findings.add(kind, sentence, what=what, value=value, places=(place or target.place,))
