"""What a fault that strikes does to an operation: wait, fail, or other bytes in another place."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable
from random import Random
from typing import NamedTuple

from failover.drill.faultfs.spec import BLOCK_BYTES, Kind
from failover.drill.faultfs.table import Armed

_SECTOR_BYTES = 512
_ERRORS = {Kind.EIO: errno.EIO, Kind.ENOSPC: errno.ENOSPC, Kind.EROFS: errno.EROFS}


class Misdirected(NamedTuple):
    """Where a write goes instead: a block of the file `path`, None for the same file."""

    path: str | None
    block: int


def hold_up(struck: Iterable[Armed]) -> None:
    """Wait as the faults say: the slow first, then those that stall, until they end."""
    for armed in struck:
        if armed.fault.kind is Kind.SLOW:
            armed.healed.wait(armed.fault.latency_ms / 1000)
    for armed in struck:
        if armed.fault.kind is Kind.STALL:
            armed.healed.wait(armed.remaining_s(time.monotonic()))


def refuse(struck: Iterable[Armed]) -> None:
    """Raise the OSError of the first fault that is one."""
    for armed in struck:
        number = _ERRORS.get(armed.fault.kind)
        if number is not None:
            raise OSError(number, os.strerror(number))


def read_back(struck: Iterable[Armed], data: bytes) -> bytes:
    """The bytes as this disk returns them."""
    for armed in struck:
        if armed.fault.kind is Kind.BIT_FLIP and data:
            data = flipped(data, armed.random)
    return data


def written(struck: Iterable[Armed], data: bytes, offset: int) -> tuple[list[tuple[int, bytes]], Misdirected | None]:
    """What arrives: pieces as (offset, bytes), and where else the whole goes."""
    pieces, elsewhere = [(offset, data)], None
    for armed in struck:
        kind = armed.fault.kind
        if kind is Kind.BIT_FLIP:
            pieces = [(at, flipped(piece, armed.random)) for at, piece in pieces if piece]
        elif kind is Kind.TORN_WRITE:
            pieces = [part for at, piece in pieces for part in _torn(at, piece, armed.random)]
        elif kind is Kind.LOST_WRITE:
            pieces = []
        elif kind is Kind.MISDIRECTED_WRITE:
            pieces, elsewhere = [], Misdirected(armed.fault.to_path, armed.fault.to_block or 0)
    return pieces, elsewhere


def flipped(data: bytes, random: Random) -> bytes:
    """One bit is turned."""
    bit = random.randrange(len(data) * 8)
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def _torn(offset: int, data: bytes, random: Random) -> list[tuple[int, bytes]]:
    """The first sectors of every block; the rest stays as it was."""
    parts = []
    for start in range(0, len(data), BLOCK_BYTES):
        block = data[start : start + BLOCK_BYTES]
        sectors = max(1, len(block) // _SECTOR_BYTES - 1)
        kept = random.randint(1, sectors) * _SECTOR_BYTES
        parts.append((offset + start, block[:kept]))
    return parts
