"""The faulty disks of `locum up --faultfs`: where a node's files lie, and when they may be used.

With the flag the files lie in `backing`, and `pgdata` is where faultfs shows them; without it they lie in `pgdata`. `up` moves
them from one place to the other, so a cluster can be started with the flag today and without it tomorrow.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from compose.adopt import running_postmaster
from compose.errors import ChildFailed, UpRefused
from compose.layout import NODES, Layout
from failover.drill.faultfs.launch import is_mounted, unmount

_MOUNTED_DEADLINE_S = 20.0
_LOOK_EVERY_S = 0.02


def arrange(layout: Layout, *, faultfs: bool) -> None:
    """Have each node's files where this `up` looks for them. Nothing of an earlier `up` runs. Raises UpRefused, OSError."""
    for node in NODES:
        if not unmount(layout.pgdata(node)):
            raise UpRefused(f"{layout.pgdata(node)} is still mounted and cannot be unmounted; unmount it by hand")
        _move(node, layout.pgdata(node), layout.backing(node), faultfs=faultfs)


def _move(node: str, pgdata: Path, backing: Path, *, faultfs: bool) -> None:
    source, target = (pgdata, backing) if faultfs else (backing, pgdata)
    if _has_files(source) and _has_files(target):
        raise UpRefused(f"both {source} and {target} hold files; move one of them away")
    if _has_files(source):
        if running_postmaster(source) is not None:
            raise UpRefused(
                f"PostgreSQL of node {node} still runs on {source}, and its disk is to be another one; stop it first"
            )
        if target.exists():
            target.rmdir()
        source.rename(target)
    if faultfs:
        backing.mkdir(mode=0o700, exist_ok=True)
        pgdata.mkdir(mode=0o700, exist_ok=True)
    elif backing.exists():
        backing.rmdir()


def _has_files(path: Path) -> bool:
    return path.is_dir() and any(path.iterdir())


async def until_mounted(layout: Layout) -> None:
    """Return when every disk is there: an agent that is started before would fill the bare directory.

    Raises ChildFailed when it takes too long.
    """
    until = time.monotonic() + _MOUNTED_DEADLINE_S
    while not all([await asyncio.to_thread(is_mounted, layout.pgdata(node)) for node in NODES]):
        if time.monotonic() > until:
            raise ChildFailed(
                f"the faulty disks were not mounted within {_MOUNTED_DEADLINE_S:.0f} s; see {layout.logs}"
            )
        await asyncio.sleep(_LOOK_EVERY_S)


def take_away(layout: Layout) -> None:
    """After everything has ended: what a disk that was killed has left. Blocks."""
    for node in NODES:
        unmount(layout.pgdata(node))
