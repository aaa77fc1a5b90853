"""Blocks that a fault has spoiled on the disk, until what was lost is written there again. Pure.

A database writes the same block again and again: most lost or torn writes are healed by the next one, and nothing can find them
afterwards. A drill must know which, or it would call them missed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from failover.drill.faultfs.spec import BLOCK_BYTES

_LSN_BYTES = 8


class Healed(msgspec.Struct, frozen=True):
    """Strike `fired` left nothing behind; `by`: what healed its last block, in words."""

    fired: int
    by: str
    at: str


class _Block(NamedTuple):
    """Which strikes hit it, and the parts of it that nobody has written again, (first byte, end)."""

    fired: set[int]
    parts: list[tuple[int, int]]


class Spoiled:
    """`healed`: in the order in which it happened."""

    def __init__(self) -> None:
        self.healed: list[Healed] = []
        self._by_block: dict[tuple[str, int], _Block] = {}
        self._left: dict[int, int] = {}

    @property
    def is_empty(self) -> bool:
        """Nothing is spoiled now."""
        return not self._by_block

    def add(self, fired: int, blocks: Iterable[tuple[str, int]]) -> None:
        """Strike number `fired` has spoiled these."""
        for block in blocks:
            struck = self._by_block.setdefault(block, _Block(set(), []))
            struck.parts[:] = [(0, BLOCK_BYTES)]
            if fired not in struck.fired:
                struck.fired.add(fired)
                self._left[fired] = self._left.get(fired, 0) + 1

    def written_again(self, path: str, offset: int, data: bytes, at: str) -> None:
        """These bytes have arrived as they were written: what they cover is well. A receiver of WAL writes a block in pieces."""
        end = offset + len(data)
        for block in range(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
            struck, start = self._by_block.get((path, block)), block * BLOCK_BYTES
            if struck is None:
                continue
            struck.parts[:] = _without(struck.parts, offset - start, end - start)
            if not struck.parts:
                lsn = _lsn(path, data[start - offset :]) if offset <= start else ""
                self._heal((path, block), f"{path}, block {block} was written again{lsn}", at)

    def gone(self, path: str, at: str) -> None:
        """The file is not there any more under this name."""
        for key in [key for key in self._by_block if key[0] == path]:
            self._heal(key, f"{path} was removed or renamed", at)

    def _heal(self, key: tuple[str, int], by: str, at: str) -> None:
        for fired in self._by_block.pop(key).fired:
            self._left[fired] -= 1
            if not self._left[fired]:
                del self._left[fired]
                self.healed.append(Healed(fired, by, at))


def _without(parts: list[tuple[int, int]], first: int, end: int) -> list[tuple[int, int]]:
    """What is left of these when [first, end) is taken away."""
    left = [piece for start, stop in parts for piece in ((start, min(stop, first)), (max(start, end), stop))]
    return [(start, stop) for start, stop in left if start < stop]


def _lsn(path: str, page: bytes) -> str:
    """The record after which the page was written: pd_lsn, which only pages of relations have (bufpage.h)."""
    if not path.startswith(("base/", "global/", "pg_tblspc/")):
        return ""
    high, low = int.from_bytes(page[:4], "little"), int.from_bytes(page[4:_LSN_BYTES], "little")
    return f" with LSN {high:X}/{low:X}"
