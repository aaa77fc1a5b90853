"""The side that is made a copy, step by step as a base backup would be: files as there, pages that differ, pg_control last, WAL."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from replication.client import AgentClient
from replication.control_file import read_control
from replication.difference.files import CONTROL, WAL, Entry, Listing, is_of_wal, listing
from replication.difference.pages_file import Copied, PagesFile
from replication.difference.protocol import BeginCopy
from replication.errors import ActionFailed
from replication.model import Reason
from replication.node import Node
from replication.threads import in_thread
from replication.wire.errors import WireError
from replication.wire.secrets import write_private

_log = structlog.get_logger()

_FILES_AT_ONCE, _RANGES_AT_ONCE = 8, 8
_CONTROL_TRIES, _PAUSE_S = 10, 0.05


async def copy_differences(
    node: Node, peer: AgentClient, label: str, *, fast: bool, progress: Callable[[float], None]
) -> Copied:
    """Make the stopped node's data directory a copy of the peer's, as a base backup would. It is half-built until this ends.

    Raises ActionFailed, WireError, OSError: then it is half-built, and only a rebuild makes it whole.
    """
    await in_thread(_unlink_control, node.data_dir)
    begun = await peer.copy_begin(BeginCopy(label, fast))
    copied = Copied()
    await in_thread(_shape, node.data_dir, begun.listing)
    in_all = sum(entry.size for entry in begun.listing.files) or 1
    done = 0
    files_at_once, ranges_at_once = asyncio.Semaphore(_FILES_AT_ONCE), asyncio.Semaphore(_RANGES_AT_ONCE)

    async def one(entry: Entry) -> None:
        nonlocal done
        async with files_at_once:
            if entry.is_pages:
                await PagesFile(node.data_dir / entry.path, peer, entry, copied, ranges_at_once).copy()
            else:
                await _whole(node.data_dir, peer, entry, copied)
        done += entry.size
        progress(min(0.99, done / in_all))

    try:
        async with asyncio.TaskGroup() as files:
            files.create_task(in_thread(_empty_wal, node.data_dir, begun.listing))
            for entry in begun.listing.files:
                files.create_task(one(entry))
    except* (ActionFailed, OSError, WireError) as failed:
        raise ActionFailed(Reason.FAILED, f"the copy broke off: {_first(failed)}") from failed
    await _control(node, peer, copied)
    ended = await peer.copy_end()
    timelines = {int(name[:8], 16) for name in ended.segments}
    histories = [f"{timeline:08X}.history" for timeline in sorted(timelines) if timeline > 1]
    for name in (*histories, *ended.segments):
        await _wal(node.data_dir, peer, name, copied)
    await in_thread(_finish, node, ended.label)
    _log.info("agent.copied_differences", **msgspec.structs.asdict(copied))
    progress(1.0)
    return copied


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    """The innermost of what went wrong first."""
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


async def _whole(data_dir: Path, peer: AgentClient, entry: Entry, copied: Copied) -> None:
    data = await peer.copy_file(entry.path)
    if data is None:
        return  # gone since: WAL says so
    copied.received_bytes += len(data)
    await in_thread(write_private, data_dir / entry.path, data)


async def _control(node: Node, peer: AgentClient, copied: Copied) -> None:
    """Last, and until its CRC fits: the source writes it in place."""
    for _ in range(_CONTROL_TRIES):
        data = await peer.copy_file(CONTROL)
        if data is None:
            break
        copied.received_bytes += len(data)
        await in_thread(write_private, node.data_dir / CONTROL, data)
        try:
            await read_control(node)
        except ActionFailed:
            await in_thread(_unlink_control, node.data_dir)
            await asyncio.sleep(_PAUSE_S)
        else:
            return
    raise ActionFailed(Reason.FAILED, "the source's pg_control could not be read whole")


async def _wal(data_dir: Path, peer: AgentClient, name: str, copied: Copied) -> None:
    data = await peer.copy_wal(name)
    if data is None:
        raise ActionFailed(Reason.FAILED, f"WAL segment {name}, which the copy needs, is gone from the source")
    copied.received_bytes += len(data)
    await in_thread(write_private, data_dir / "pg_wal" / name, data)


def _unlink_control(data_dir: Path) -> None:
    (data_dir / CONTROL).unlink(missing_ok=True)


def _shape(data_dir: Path, wanted: Listing) -> None:
    """Directories as there, files that are not there deleted, longer ones cut, what a backup leaves out emptied."""
    for path in (
        "pg_replslot",
        "pg_dynshmem",
        "pg_notify",
        "pg_serial",
        "pg_snapshots",
        "pg_stat_tmp",
        "pg_subtrans",
    ):
        shutil.rmtree(data_dir / path, ignore_errors=True)
    have = listing(data_dir)
    keep = {entry.path: entry for entry in wanted.files}
    for directory in wanted.directories:
        if not is_of_wal(directory):
            (data_dir / directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in sorted(set(have.directories) - set(wanted.directories), reverse=True):
        shutil.rmtree(data_dir / path, ignore_errors=True)
    for folder, names, members in os.walk(data_dir):
        names[:] = [name for name in names if not is_of_wal(os.path.relpath(Path(folder, name), data_dir))]
        for name in members:
            path = os.path.relpath(Path(folder, name), data_dir)
            if path not in keep:
                (data_dir / path).unlink(missing_ok=True)
            elif (data_dir / path).stat().st_size > keep[path].size:
                os.truncate(data_dir / path, keep[path].size)


def _empty_wal(data_dir: Path, wanted: Listing) -> None:
    """Gigabytes of segments take as long to be removed as the pages beside them to be compared."""
    shutil.rmtree(data_dir / WAL, ignore_errors=True)
    for directory in [WAL, *filter(is_of_wal, wanted.directories)]:
        (data_dir / directory).mkdir(mode=0o700, parents=True, exist_ok=True)


def _finish(node: Node, label: str) -> None:
    write_private(node.data_dir / "backup_label", label)
    (node.data_dir / "postgresql.auto.conf").write_text("", encoding="ascii")
    node.installation.own(node.data_dir)
    for folder, _names, _members in os.walk(node.data_dir):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
