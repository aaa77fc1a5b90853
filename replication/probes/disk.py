"""The disk probe: write, fsync and read back a small file on each volume, in a thread that may hang for ever."""

from __future__ import annotations

import errno
import mmap
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from replication.crowding import Crowding
from replication.model import DataDirectory, FaultKind, Probe

BLOCK_BYTES = 4096
_NAME = ".locum-probe-{}"
_FAULTS = {
    errno.EIO: FaultKind.STORAGE_ERROR,
    errno.ENOSPC: FaultKind.STORAGE_FULL,
    errno.EDQUOT: FaultKind.STORAGE_FULL,
    errno.EROFS: FaultKind.READ_ONLY,
}


class DiskResult(msgspec.Struct, frozen=True):
    """One finished probe of all volumes; `error` is None when every byte came back from the disk."""

    took_ms: int
    error: str | None = None
    fault: FaultKind | None = None
    bytes_free: int | None = None
    bytes_total: int | None = None
    data: DataDirectory | None = None
    """What the data directory was then; None when the disk did not let it be seen."""


class DiskProbe:
    """Probes in a thread of its own, one at a time: while one hangs no second is started. `report` may be called at
    any moment and never waits."""

    def __init__(
        self,
        volumes: Callable[[], list[Path]],
        inspect: Callable[[], DataDirectory],
        deadline_ms: int,
        crowding: Crowding | None = None,
    ) -> None:
        self._crowding = crowding or Crowding()
        self._mark = self._crowding.mark()
        self._volumes = volumes
        self._inspect = inspect
        self._deadline_ms = deadline_ms
        self._began: float | None = None
        self._ended: float | None = None
        self._round = 0
        self.result: DiskResult | None = None

    def start(self, done: Callable[[DiskResult], None]) -> bool:
        """Begin a probe unless one is under way; `done` is called in the probe's thread. False when one is."""
        if self._began is not None:
            return False
        self._mark = self._crowding.mark()
        self._began = time.monotonic()
        self._round += 1
        # A daemon thread: one that hangs in the kernel must not hold up the agent's own end.
        threading.Thread(target=self._run, args=(done, self._round), name="disk-probe", daemon=True).start()
        return True

    def report(self) -> Probe | None:
        """The last result; with `running_ms` and `storage_stalled` while one is over its deadline."""
        now = time.monotonic()
        running_ms = None if self._began is None else int((now - self._began) * 1000)
        stalled = running_ms is not None and running_ms > self._deadline_ms
        stalled = stalled and (running_ms or 0) > self._deadline_ms * self._crowding.times(self._mark)
        if self.result is None or self._ended is None:
            if not stalled:
                return None
            return Probe(ok=False, age_ms=0, took_ms=0, running_ms=running_ms, fault=FaultKind.STORAGE_STALLED)
        return Probe(
            ok=self.result.error is None and not stalled,
            age_ms=int((now - self._ended) * 1000),
            took_ms=self.result.took_ms,
            running_ms=running_ms,
            error=self.result.error,
            fault=FaultKind.STORAGE_STALLED if stalled else self.result.fault,
        )

    def _run(self, done: Callable[[DiskResult], None], number: int) -> None:
        result = probe_volumes(self._volumes, self._inspect, number)
        self.result = result
        self._ended = time.monotonic()
        self._began = None
        done(result)


def probe_volumes(volumes: Callable[[], list[Path]], inspect: Callable[[], DataDirectory], number: int) -> DiskResult:
    """Probe each directory of `volumes()` with a pattern made from `number`, then look at the data directory. Blocks,
    perhaps for ever. Never raises OSError: that is what it reports."""
    began = time.monotonic()
    error: str | None = None
    fault: FaultKind | None = None
    free = total = None
    data: DataDirectory | None = None
    try:
        for directory in volumes():
            probe_directory(directory, number)
            space = os.statvfs(directory)
            if free is None or space.f_bavail * space.f_frsize < free:
                free, total = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
        data = inspect()
    except OSError as failure:
        error = f"{failure.strerror or failure}: {failure.filename or 'probe file'}"
        fault = _FAULTS.get(failure.errno or 0, FaultKind.STORAGE_ERROR)
    took_ms = int((time.monotonic() - began) * 1000)
    return DiskResult(took_ms=took_ms, error=error, fault=fault, bytes_free=free, bytes_total=total, data=data)


def probe_directory(directory: Path, number: int) -> None:
    """Write a block, fsync it, read it back past the cache where the file system allows it, compare.

    Raises OSError with the kernel's errno, or EIO when other bytes came back than were written.
    """
    path = directory / _NAME.format(os.getpid())
    block = (number.to_bytes(8, "big") * (BLOCK_BYTES // 8))[:BLOCK_BYTES]
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            written = os.pwrite(descriptor, block, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if written != len(block):
            raise OSError(errno.ENOSPC, f"only {written} of {len(block)} bytes were written", str(path))
        if _read_back(path) != block:
            raise OSError(errno.EIO, "other bytes came back than were written", str(path))
    finally:
        path.unlink(missing_ok=True)


def _read_back(path: Path) -> bytes:
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        descriptor = os.open(path, flags)
    try:
        with mmap.mmap(-1, BLOCK_BYTES) as aligned:  # O_DIRECT wants memory on a page boundary
            got = os.preadv(descriptor, [aligned], 0)
            return aligned[:got]
    finally:
        os.close(descriptor)
