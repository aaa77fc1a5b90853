"""Whether the cluster has healed what was done to its disks by writing over it, before anybody could read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from failover.drill.faultfs.client import FaultFsAway, FaultFsClient
from failover.drill.faults.planted import Planted, what_healed

SPOILING = ("bit_flip", "torn_write", "lost_write", "misdirected_write")
"""Kinds that leave something wrong on the disk."""


def counts(strike: Mapping[str, Any]) -> bool:
    """Whether a strike did any harm: an error is one whatever it met, and what went elsewhere has written over that place; but what is
    written for the first time holds nothing yet. Pure."""
    return bool(strike["existed"]) or strike["kind"] not in SPOILING or strike["kind"] == "misdirected_write"


def healed(struck: Iterable[tuple[FaultFsClient, int]], planted: Sequence[Planted]) -> list[str]:
    """A sentence for each damage; empty while any is left, or there was none. `struck`: file systems with the number of strikes
    before. Blocks."""
    said = [what_healed(one) for one in planted]
    for disk, before in struck:
        said += _on(disk, before)
    whole = [one for one in said if one is not None]
    return whole if len(whole) == len(said) else []


def _on(disk: FaultFsClient, before: int) -> list[str | None]:
    try:
        fired = [one for one in disk.fired() if one["number"] > before]
        by = {one["fired"]: f"{one['by']} at {one['at']}" for one in disk.healed()}
    except FaultFsAway:
        return [None]
    spoiling = [one["number"] for one in fired if one["kind"] in SPOILING and one["op"] == "write"]
    return [by.get(number) for number in spoiling] if spoiling else [None]
