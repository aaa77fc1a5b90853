"""The side that is made a copy: what differs is fetched, what only differs in hints is written in canonical form, the rest stays.

Keeping a page as it is because its content is equal would keep its hint bits too, and one of those may say that a transaction
committed which never reached the other node. So a page stays only when its bytes are equal (DESIGN section 6, rebuild).
"""

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
from replication.difference.files import CONTROL, Entry, Listing, listing
from replication.difference.hashes import canonical, canonical_hashes, parts, raw_hashes, sealed
from replication.difference.protocol import PAGES_MAX, AskPages, BeginCopy
from replication.errors import ActionFailed
from replication.model import Reason
from replication.node import Node
from replication.page import PAGE_BYTES
from replication.relation_files import open_past_cache, read_at
from replication.scrub.relation_path import relation_at
from replication.threads import in_thread
from replication.wire.errors import WireError
from replication.wire.secrets import write_private

_log = structlog.get_logger()

_FILES_AT_ONCE, _RANGES_AT_ONCE = 8, 4
_CONTROL_TRIES, _PAUSE_S = 10, 0.05
_MODE = 0o600


class Copied(msgspec.Struct):
    """What it took: pages compared, fetched, written in canonical form, and bytes that came over the network."""

    pages: int = 0
    fetched: int = 0
    rewritten: int = 0
    received_bytes: int = 0

    @property
    def sentence(self) -> str:
        """For a person."""
        return (
            f"{self.fetched} of {self.pages} pages differed, {self.rewritten} in hints alone, "
            f"{self.received_bytes} bytes came over the network"
        )


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
                await _pages(node.data_dir, peer, entry, copied, ranges_at_once)
            else:
                await _whole(node.data_dir, peer, entry, copied)
        done += entry.size
        progress(min(0.99, done / in_all))

    try:
        async with asyncio.TaskGroup() as files:
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


async def _pages(data_dir: Path, peer: AgentClient, entry: Entry, copied: Copied, turns: asyncio.Semaphore) -> None:
    path, is_main = data_dir / entry.path, relation_at(entry.path.partition(".")[0]) is not None
    pages = entry.size // PAGE_BYTES
    descriptor = await in_thread(os.open, path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
    try:
        async with asyncio.TaskGroup() as ranges:
            for first in range(0, pages, PAGES_MAX):
                numbers = list(range(first, min(pages, first + PAGES_MAX)))
                asked = AskPages(entry.path, numbers, entry.first_block, is_main, "raw")
                ranges.create_task(_in_turn(turns, path, descriptor, peer, asked, copied))
        await in_thread(os.fsync, descriptor)
    finally:
        await in_thread(os.close, descriptor)


async def _in_turn(
    turns: asyncio.Semaphore, path: Path, descriptor: int, peer: AgentClient, asked: AskPages, copied: Copied
) -> None:
    async with turns:
        await _range(path, descriptor, peer, asked, copied)


async def _range(path: Path, descriptor: int, peer: AgentClient, asked: AskPages, copied: Copied) -> None:
    first = asked.pages[0]
    own = await in_thread(_read, path, first, len(asked.pages))
    theirs = await peer.copy_pages(asked)
    copied.received_bytes += len(theirs)
    known, wanted = parts(await in_thread(raw_hashes, own)), parts(theirs)
    copied.pages += len(wanted)
    unlike = [first + at for at, digest in enumerate(wanted) if at >= len(known) or known[at] != digest]
    if not unlike:
        return
    have = [number for number in unlike if number - first < len(known)]
    fetch = [number for number in unlike if number - first >= len(known)]
    if have and asked.is_main:
        fetch += await _rewrite(descriptor, peer, asked, own, have, copied)
    else:
        fetch += have
    await _fetch(descriptor, peer, asked, sorted(fetch), copied)


async def _rewrite(
    descriptor: int, peer: AgentClient, asked: AskPages, own: bytes, numbers: list[int], copied: Copied
) -> list[int]:
    """Those that differ in hints alone are written in canonical form; the others are handed back."""
    theirs = await peer.copy_pages(msgspec.structs.replace(asked, pages=numbers, what="canonical"))
    copied.received_bytes += len(theirs)
    first = asked.pages[0]
    data = b"".join(own[(number - first) * PAGE_BYTES : (number - first + 1) * PAGE_BYTES] for number in numbers)
    alike, rewritten = await in_thread(
        _rewritten, data, [asked.first_block + number for number in numbers], parts(theirs)
    )
    await in_thread(_put, descriptor, {numbers[at]: rewritten[at] for at in alike})
    copied.rewritten += len(alike)
    return [number for at, number in enumerate(numbers) if at not in rewritten and at < len(parts(theirs))]


def _rewritten(data: bytes, blocks: list[int], theirs: list[bytes]) -> tuple[list[int], dict[int, bytes]]:
    """Which of these pages have the other side's canonical form, and that form as it is to be written."""
    own = parts(canonical_hashes(data, blocks, is_main=True))
    alike = [at for at, digest in enumerate(theirs) if own[at] == digest]
    if not alike:
        return [], {}
    chosen = b"".join(data[at * PAGE_BYTES : (at + 1) * PAGE_BYTES] for at in alike)
    numbers = [blocks[at] for at in alike]
    out = sealed(canonical(chosen, numbers, is_main=True), numbers)
    return alike, {at: out[index * PAGE_BYTES : (index + 1) * PAGE_BYTES] for index, at in enumerate(alike)}


async def _fetch(descriptor: int, peer: AgentClient, asked: AskPages, numbers: list[int], copied: Copied) -> None:
    if not numbers:
        return
    data = await peer.copy_pages(msgspec.structs.replace(asked, pages=numbers, what="blocks"))
    copied.received_bytes += len(data)
    came = numbers[: len(data) // PAGE_BYTES]
    pages = {number: data[at * PAGE_BYTES : (at + 1) * PAGE_BYTES] for at, number in enumerate(came)}
    await in_thread(_put, descriptor, pages)
    copied.fetched += len(came)


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


def _put(descriptor: int, pages: dict[int, bytes]) -> None:
    for number, page in pages.items():
        os.pwrite(descriptor, page, number * PAGE_BYTES)


def _read(path: Path, first: int, count: int) -> bytes:
    descriptor, _cached = open_past_cache(path)
    try:
        data = read_at(descriptor, first, count)
    finally:
        os.close(descriptor)
    return data[: len(data) - len(data) % PAGE_BYTES]


def _unlink_control(data_dir: Path) -> None:
    (data_dir / CONTROL).unlink(missing_ok=True)


def _shape(data_dir: Path, wanted: Listing) -> None:
    """Directories as there, files that are not there deleted, longer ones cut, what a backup leaves out emptied."""
    for path in (
        "pg_wal",
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
        (data_dir / directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in sorted(set(have.directories) - set(wanted.directories), reverse=True):
        shutil.rmtree(data_dir / path, ignore_errors=True)
    for folder, _names, members in os.walk(data_dir):
        for name in members:
            path = os.path.relpath(Path(folder, name), data_dir)
            if path not in keep:
                (data_dir / path).unlink(missing_ok=True)
            elif (data_dir / path).stat().st_size > keep[path].size:
                os.truncate(data_dir / path, keep[path].size)


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
