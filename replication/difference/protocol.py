"""What the two sides of a copy by differences say to each other."""

from __future__ import annotations

import msgspec

from replication.difference.files import Listing

PAGES_MAX = 1_024
"""In one question: 8 MB of blocks, or 16 kB of hashes."""


class BeginCopy(msgspec.Struct, frozen=True):
    label: str
    fast: bool = False


class Begun(msgspec.Struct, frozen=True):
    """The backup runs. `listing`: what it holds."""

    start_lsn: int
    listing: Listing


class AskPages(msgspec.Struct, frozen=True):
    """Pages of one file, by their numbers in it; `first_block`: of the file in its fork."""

    path: str
    pages: list[int]
    first_block: int
    is_main: bool
    what: str
    """`raw` hashes, `canonical` hashes, `both` (all raw ones, then all canonical ones), or the `blocks` themselves."""


class EndedCopy(msgspec.Struct, frozen=True):
    """The backup is over: the label that makes a copy of it, and the WAL segments that it needs, in order."""

    label: str
    segments: tuple[str, ...]


def runs(numbers: list[int]) -> list[tuple[int, int]]:
    """(first, count) of each row of neighbours."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][0] + found[-1][1]:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((number, 1))
    return found
