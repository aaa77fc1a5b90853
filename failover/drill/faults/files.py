"""Damage to the files of a running node, without any file system of ours: what a controller that went mad leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

from failover.drill.errors import ClusterAway, NotInjected
from failover.drill.faults import damage
from failover.drill.faults.damage import Damage
from failover.drill.faults.live_files import LiveFiles, read, read_page, write
from failover.drill.faults.planted import Planted
from replication.page import lsn_of
from replication.page_size import PAGE_BYTES

_TRIES = 24
_CHANGES_WITHIN_S = 20.0
_LOOK_EVERY_S = 0.2
_VACUUM_EVERY_S = 4.0
_MISLED = "SELECT count(*) FROM pg_check_visible($1::text::regclass)"
"""Rows that the map calls visible to all and that are not. Pruning may have made it true meanwhile, and then nobody is misled."""
_TOAST = "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = $1::regclass AND reltoastrelid <> 0"
_OLDEST_XID = "SELECT oldest_xid::text FROM pg_control_checkpoint()"
_REDO = "SELECT (redo_lsn - '0/0')::bigint FROM pg_control_checkpoint()"
_WAL_FILE = "SELECT pg_walfile_name(pg_current_wal_flush_lsn())"
_WAL_AT = "SELECT (pg_walfile_name_offset(pg_current_wal_flush_lsn())).file_offset"
_CONTROL_USED_BYTES = 288
_XIDS_A_BYTE = 4
_XACT_FILE_BYTES = 32 * PAGE_BYTES
_XACT_BYTES_MIN, _XACT_BYTES_MAX = 8, 32
_Choose = Callable[[bytes], list[int]]
_Change = Callable[[bytes, int], bytes]


class FileFaults:
    """Makes one damage; `random` chooses among what is live then. What was done comes back in words, with file and block.

    Raises NotInjected when nothing of the kind is there, or the cluster wrote over it at once; Skipped, ClusterAway.
    """

    def __init__(self, files: LiveFiles, random: Random) -> None:
        self.planted: list[Planted] = []
        self._files = files
        self._random = random
        self._kind = Damage.BIT_FLIP

    async def make(self, kind: Damage, relation: str) -> str:
        """One of DAMAGES; `relation` counts where it is one of a relation's."""
        self._kind = kind
        try:
            return f"{kind}: {await DAMAGES[kind](self, relation)}"
        except ClusterAway:
            if not self.planted:
                raise
            return f"{kind}: {self.planted[-1].place}, which was found out at once: its node is no more"

    async def _plant(self, path: Path, offset: int, data: bytes, *, is_page: bool = False) -> None:
        await asyncio.to_thread(write, path, offset, data)
        self.planted.append(Planted(self._kind, path, offset, data, is_page))

    async def _pages(self, relation: str, choose: _Choose, change: _Change, fork: str = "") -> str:
        """Change one page, chosen among the live ones, until it stays changed and nothing of it is cached."""
        await self._files.can_evict()
        for _ in range(_TRIES):
            await self._files.evict(relation)
            path = await self._files.path(relation, fork)
            data = await asyncio.to_thread(read, path)
            block = self._chosen(choose(data), relation)
            page = change(damage.page_of(data, block), block)
            if await self._stays(relation, path, {block: page}):
                return self._said(relation, path, [block])
        raise NotInjected(f"the cluster wrote over {relation} each time")

    async def _stays(self, relation: str, path: Path, pages: dict[int, bytes]) -> bool:
        self.planted.clear()
        for block, page in pages.items():
            await self._plant(path, block * PAGE_BYTES, page, is_page=True)
        try:
            await self._files.evict(relation)
        except ClusterAway:
            return True  # it was found at once, and its node is no more
        return all([await asyncio.to_thread(read_page, path, block) == page for block, page in pages.items()])

    async def bit_flip(self, relation: str) -> str:
        """One bit of a live page."""
        return await self._pages(
            relation, damage.live_blocks, lambda page, _block: damage.bit_flipped(page, self._random)
        )

    async def noise(self, relation: str) -> str:
        """A page of random bytes."""
        return await self._pages(relation, damage.live_blocks, lambda page, _block: damage.noise(page, self._random))

    async def zeroed(self, relation: str) -> str:
        """A page in the middle of a table is zero, which PostgreSQL takes for new."""
        return await self._pages(relation, _inner, lambda page, _block: damage.zeroed(page, self._random))

    async def tuple_altered(self, relation: str) -> str:
        """A letter of a row is another, under a checksum that fits."""
        return await self._pages(
            relation, damage.live_blocks, lambda page, block: damage.tuple_altered(page, block, self._random)
        )

    async def entry_altered(self, relation: str) -> str:
        """A key of the primary key's index is another, under a checksum that fits."""
        return await self._pages(
            f"{relation}_pkey", damage.live_leaves, lambda page, block: damage.entry_altered(page, block, self._random)
        )

    async def toast(self, relation: str) -> str:
        """A chunk of a long value is altered, under a checksum that fits."""
        toast = await self._files.value(_TOAST, relation)
        return await self._pages(
            toast, damage.live_blocks, lambda page, block: damage.tuple_altered(page, block, self._random)
        )

    async def free_space_map(self, relation: str) -> str:
        """Random bytes in the map of free space."""
        await self._files.on_primary(f"VACUUM {relation}")
        return await self._pages(relation, _all_of, lambda page, _block: damage.noise(page, self._random), fork="_fsm")

    async def swapped(self, relation: str) -> str:
        """Two pages in each other's place, under checksums that fit."""
        await self._files.can_evict()
        path = await self._files.path(relation)
        for _ in range(_TRIES):
            await self._files.evict(relation)
            data = await asyncio.to_thread(read, path)
            live = damage.live_blocks(data)
            if len(live) < 2:
                raise NotInjected(f"{relation} has fewer than two pages with rows")
            one, other = self._random.sample(live, 2)
            pages = {
                one: damage.resealed(damage.page_of(data, other), one),
                other: damage.resealed(damage.page_of(data, one), other),
            }
            if await self._stays(relation, path, pages):
                return self._said(relation, path, [one, other])
        raise NotInjected(f"the cluster wrote over {relation} each time")

    async def other_relation(self, relation: str) -> str:
        """A page of another table at the same block number: its checksum fits, since that covers the number alone."""
        await self._files.can_evict()
        await self._files.evict("slot")
        other = await asyncio.to_thread(read, await self._files.path("slot"))
        return await self._pages(
            relation,
            lambda data: [block for block in damage.live_blocks(data) if block < len(other) // PAGE_BYTES],
            lambda _page, block: damage.page_of(other, block),
        )

    async def stale(self, relation: str) -> str:
        """A page as it was some time ago: it was checkpointed since, and the disk forgot that."""
        return await self._put_back(relation, "", lambda _old, _now: True, checkpoint=True)

    async def second_write_lost(self, relation: str) -> str:
        """Of two writes of a page within one checkpoint cycle the second is lost: the WAL holds no image that would heal it."""
        await self._files.checkpoint()
        redo = int(await self._files.value(_REDO))
        return await self._put_back(relation, "", lambda old, _now: lsn_of(old) > redo, checkpoint=False)

    async def visibility_map(self, relation: str) -> str:
        """The map as it was: it calls rows visible to all that were deleted since."""
        await self._files.on_primary("CREATE EXTENSION IF NOT EXISTS pg_visibility")
        until_s = time.monotonic() + _CHANGES_WITHIN_S
        why = f"what the old map of {relation} says has become true again each time"
        while time.monotonic() < until_s:
            await self._files.on_primary(f"VACUUM {relation}")
            try:
                said = await self._put_back(
                    relation, "_vm", damage.calls_more_visible, checkpoint=True, within_s=_VACUUM_EVERY_S
                )
            except NotInjected as nothing:
                why = str(nothing)
                continue
            if int(await self._files.value(_MISLED, relation)):
                return said
        raise NotInjected(why)

    async def _put_back(
        self,
        relation: str,
        fork: str,
        may: Callable[[bytes, bytes], bool],
        *,
        checkpoint: bool,
        within_s: float = _CHANGES_WITHIN_S,
    ) -> str:
        await self._files.can_evict()
        path = await self._files.path(relation, fork)
        await self._files.evict(relation)
        before = await asyncio.to_thread(read, path)
        until_s = time.monotonic() + within_s
        while time.monotonic() < until_s:
            await asyncio.sleep(_LOOK_EVERY_S)
            if checkpoint:
                await self._files.checkpoint()
            await self._files.evict(relation)
            now = await asyncio.to_thread(read, path)
            changed = [
                block
                for block in _changed(before, now, bare=bool(fork))
                if may(damage.page_of(before, block), damage.page_of(now, block))
            ]
            if not changed:
                if not checkpoint:
                    before = now
                continue
            block = self._random.choice(changed)
            if await self._stays(relation, path, {block: damage.page_of(before, block)}):
                return self._said(relation, path, [block])
        raise NotInjected(f"no page of {relation} changed and then stayed within {within_s:.0f} s")

    async def truncated(self, relation: str) -> str:
        """The second half of a table's file is gone."""
        path = await self._shorten(
            relation, lambda path: os.truncate(path, path.stat().st_size // PAGE_BYTES // 2 * PAGE_BYTES)
        )
        return f"the second half of {self._name(path)} ({relation}) is gone"

    async def missing(self, relation: str) -> str:
        """A table's file is gone from its directory, as after a loss of metadata."""
        path = await self._shorten(relation, Path.unlink)
        return f"{self._name(path)} ({relation}) is gone"

    async def _shorten(self, relation: str, change: Callable[[Path], None]) -> Path:
        await self._files.can_evict()
        await self._files.checkpoint()
        path = await self._files.path(relation)
        await self._files.evict(relation)
        try:
            await asyncio.to_thread(change, path)
        except OSError as error:
            raise NotInjected(f"{path.name} cannot be changed: {error.strerror}") from error
        with contextlib.suppress(ClusterAway, NotInjected):  # what was dirty meanwhile has met it already
            await self._files.evict(relation)
        return path

    async def transaction_status(self, _relation: str) -> str:
        """Random bytes in pg_xact: which transactions have committed. Of those that somebody may still ask about, and that a
        checkpoint has written for good."""
        end = await self._files.settle() // _XIDS_A_BYTE
        first = int(await self._files.value(_OLDEST_XID)) // _XIDS_A_BYTE + 1
        if end - first < _XACT_BYTES_MIN:
            raise NotInjected("hardly any transaction is older than the last checkpoint")
        file = self._random.randrange(first // _XACT_FILE_BYTES, (end - 1) // _XACT_FILE_BYTES + 1)
        path = self._files.data_dir / "pg_xact" / f"{file:04X}"
        low, high = max(first - file * _XACT_FILE_BYTES, 0), min(end - file * _XACT_FILE_BYTES, _XACT_FILE_BYTES)
        at = self._random.randrange(low, max(low + 1, high - _XACT_BYTES_MAX))
        count = min(_XACT_BYTES_MAX, high - at)
        await self._plant(path, at, self._random.randbytes(count))
        return f"{count} random bytes at {at} of {self._name(path)}"

    async def control_file(self, _relation: str) -> str:
        """A bit of pg_control."""
        path = self._files.data_dir / "global" / "pg_control"
        data = (await asyncio.to_thread(read, path))[:_CONTROL_USED_BYTES]
        await self._plant(path, 0, damage.bit_flipped(data, self._random))
        return f"a bit of {self._name(path)}"

    async def control_file_stale(self, _relation: str) -> str:
        """pg_control as it was before the last checkpoints."""
        path = self._files.data_dir / "global" / "pg_control"
        data = await asyncio.to_thread(read, path)
        for _ in range(2):
            await asyncio.sleep(_LOOK_EVERY_S)
            await self._files.checkpoint()
        if await asyncio.to_thread(read, path) == data:
            raise NotInjected("two checkpoints did not change pg_control")
        await self._plant(path, 0, data)
        return f"{self._name(path)} as it was two checkpoints ago"

    async def wal_segment(self, _relation: str) -> str:
        """A bit of WAL that was flushed and is still needed for recovery."""
        name, end = await self._files.value(_WAL_FILE), int(await self._files.value(_WAL_AT))
        path = self._files.data_dir / "pg_wal" / name
        data = (await asyncio.to_thread(read, path))[: end // PAGE_BYTES * PAGE_BYTES]
        if not data:
            raise NotInjected("the WAL segment has only just begun")
        at = self._random.randrange(len(data))
        await self._plant(path, at, bytes([data[at] ^ 1 << self._random.randrange(8)]))
        return f"a bit at {at} of {self._name(path)}"

    def _chosen(self, blocks: list[int], relation: str) -> int:
        if not blocks:
            raise NotInjected(f"{relation} has no page of the kind")
        return self._random.choice(blocks)

    def _said(self, relation: str, path: Path, blocks: list[int]) -> str:
        return f"{self._name(path)} ({relation}), block {', '.join(map(str, blocks))}"

    def _name(self, path: Path) -> str:
        return f"{self._files.node}:{path.relative_to(self._files.data_dir)}"


def _inner(data: bytes) -> list[int]:
    """Live pages that another follows, where there are two."""
    live = damage.live_blocks(data)
    return live[:-1] or live


def _all_of(data: bytes) -> list[int]:
    return list(range(len(data) // PAGE_BYTES))


def _changed(before: bytes, now: bytes, *, bare: bool) -> list[int]:
    """Blocks whose rows are others than before. `bare`: whatever has changed on a page that has no rows."""
    found = []
    for block in range(len(before) // PAGE_BYTES):
        old, new = damage.page_of(before, block), damage.page_of(now, block)
        if old == new or not any(old):
            continue
        if bare or (lsn_of(old) < lsn_of(new) and damage.items_of(old) != damage.items_of(new)):
            found.append(block)
    return found


DAMAGES: dict[Damage, Callable[[FileFaults, str], Awaitable[str]]] = {
    Damage.BIT_FLIP: FileFaults.bit_flip,
    Damage.NOISE: FileFaults.noise,
    Damage.ZEROED: FileFaults.zeroed,
    Damage.STALE: FileFaults.stale,
    Damage.SWAPPED: FileFaults.swapped,
    Damage.TUPLE_ALTERED: FileFaults.tuple_altered,
    Damage.ENTRY_ALTERED: FileFaults.entry_altered,
    Damage.VISIBILITY_MAP: FileFaults.visibility_map,
    Damage.OTHER_RELATION: FileFaults.other_relation,
    Damage.SECOND_WRITE_LOST: FileFaults.second_write_lost,
    Damage.TOAST: FileFaults.toast,
    Damage.FREE_SPACE_MAP: FileFaults.free_space_map,
    Damage.TRUNCATED: FileFaults.truncated,
    Damage.MISSING: FileFaults.missing,
    Damage.TRANSACTION_STATUS: FileFaults.transaction_status,
    Damage.CONTROL_FILE: FileFaults.control_file,
    Damage.CONTROL_FILE_STALE: FileFaults.control_file_stale,
    Damage.WAL_SEGMENT: FileFaults.wal_segment,
}
"""Each but that of memory, which is no file."""
