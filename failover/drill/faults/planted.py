"""What was written over a node's files, and whether PostgreSQL has written over it since without ever having read it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from failover.drill.faults.damage import Damage
from replication.page import lsn_of
from replication.page_size import PAGE_BYTES

HEALABLE = frozenset(
    {
        Damage.BIT_FLIP,
        Damage.NOISE,
        Damage.TRANSACTION_STATUS,
        Damage.CONTROL_FILE,
        Damage.CONTROL_FILE_STALE,
        Damage.WAL_SEGMENT,
        Damage.FREE_SPACE_MAP,
    }
)
"""PostgreSQL refuses to read these, or holds the truth in memory: what is written there later is not made from them. A page that
it took for good is different: what is written over it carries the damage on."""


class Planted(NamedTuple):
    """`data` was written at `offset`; `is_page`: it is a whole page of a relation."""

    damage: Damage
    path: Path
    offset: int
    data: bytes
    is_page: bool = False

    @property
    def place(self) -> str:
        """For a person."""
        where = f"block {self.offset // PAGE_BYTES}" if self.is_page else f"{len(self.data)} bytes at {self.offset}"
        return f"{self.path.parent.name}/{self.path.name}, {where}"


def what_healed(planted: Planted) -> str | None:
    """A sentence, when nothing is left of it and nothing was made from it; None while it lies there. Blocks."""
    if planted.damage not in HEALABLE:
        return None
    try:
        with planted.path.open("rb", buffering=0) as file:
            file.seek(planted.offset)
            found = file.read(len(planted.data))
    except FileNotFoundError:
        return f"{planted.place}: the file was removed or renamed"
    except OSError:
        return None
    if found == planted.data:
        return None
    lsn = f" with LSN {lsn_of(found) >> 32:X}/{lsn_of(found) & 0xFFFFFFFF:X}" if planted.is_page else ""
    return f"{planted.place} was written again{lsn}"
