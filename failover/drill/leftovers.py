"""What a drill must undo although it was killed: written down as it goes, undone by the next drill that starts.

A file for each running drill, in a directory that only this user can enter.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from failover.drill.cluster import Cluster
from failover.drill.errors import ClusterAway, DrillError
from failover.drill.faultfs.client import FaultFsAway
from failover.drill.faultfs.launch import unmount
from failover.drill.faults.links import open_links
from failover.drill.faults.processes import started
from failover.drill.throw_away import end_processes

_NODES = ("a", "b")


class Process(msgspec.Struct, frozen=True):
    """A process for ever: a pid alone is given again."""

    pid: int
    started: int

    @property
    def is_alive(self) -> bool:
        """The very same runs."""
        return started(self.pid) == self.started


class Entry(msgspec.Struct, kw_only=True):
    """One drill: itself, what it stopped, its throw-away cluster or the one that it was made against."""

    drill: Process
    stopped: list[Process] = []
    up: Process | None = None
    data: str | None = None
    is_temporary: bool = False
    against: str | None = None


class Journal:
    """Of this process; kept up to date on disk before what it speaks of is done. Raises DrillError when it cannot be written."""

    def __init__(self) -> None:
        self._entry = Entry(drill=_named(os.getpid()))
        self._path = _folder() / f"{os.getpid()}.json"

    def own_cluster(self, data: Path, up: int, *, is_temporary: bool) -> None:
        """A throw-away cluster was started."""
        self._entry.data, self._entry.up, self._entry.is_temporary = str(data), _named(up), is_temporary
        self._write()

    def against(self, ready_file: Path) -> None:
        """Faults are about to be made in a cluster that goes on."""
        self._entry.against = str(ready_file)
        self._write()

    def stopping(self, pids: Iterable[int]) -> None:
        """These processes are about to be stopped."""
        self._entry.stopped += [Process(pid, began) for pid in pids if (began := started(pid)) is not None]
        self._write()

    def close(self) -> None:
        """All is undone."""
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        half = self._path.with_suffix(".half")
        try:
            half.write_bytes(msgspec.json.encode(self._entry))
            half.replace(self._path)
        except OSError as error:
            raise DrillError(f"{self._path} cannot be written: {error.strerror}") from error


async def heal_leftovers(tell: Callable[[str], None]) -> None:
    """Undo what drills left that were killed."""
    for path in sorted(await asyncio.to_thread(lambda: list(_folder().glob("*.json")))):
        try:
            entry = msgspec.json.decode(await asyncio.to_thread(path.read_bytes), type=Entry)
        except (OSError, msgspec.DecodeError):
            continue  # another drill has just ended, or writes it
        if entry.drill.is_alive:
            continue
        await _undo(entry)
        await asyncio.to_thread(path.unlink, missing_ok=True)
        tell(f"undid what a drill had left that was killed (process {entry.drill.pid})")


async def _undo(entry: Entry) -> None:
    for process in entry.stopped:
        if process.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
    if entry.data is not None:
        await asyncio.to_thread(_end_cluster, Path(entry.data), entry.up, is_temporary=entry.is_temporary)
    if entry.against is not None:
        await _heal(Cluster(Path(entry.against)))


def _end_cluster(data: Path, up: Process | None, *, is_temporary: bool) -> None:
    if up is not None and up.is_alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(up.pid, signal.SIGKILL)
    end_processes(data)
    for node in _NODES:
        unmount(data / "nodes" / node / "pgdata")
    if is_temporary:
        shutil.rmtree(data.parent, ignore_errors=True)


async def _heal(cluster: Cluster) -> None:
    """Every fault that would last, whether this drill made it or not."""
    try:
        await cluster.start(wait=False)
        for node in _NODES:
            if (disk := cluster.disk(node)) is not None:
                with contextlib.suppress(FaultFsAway):
                    await asyncio.to_thread(disk.disarm)
            with contextlib.suppress(ClusterAway):
                await cluster.set_clock(node, 0)
        await open_links(cluster)
    except ClusterAway:
        return  # it is down, and its faults with it
    finally:
        await cluster.stop()


def _named(pid: int) -> Process:
    began = started(pid)
    if began is None:
        raise DrillError(f"process {pid} has ended already")
    return Process(pid, began)


def _folder() -> Path:
    """Raises DrillError when it is somebody else's."""
    folder = Path(tempfile.gettempdir()) / f"locum-drills-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise DrillError(f"{folder} cannot be made: {error.strerror}") from error
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise DrillError(f"{folder} is not this user's alone: remove it")
    return folder
