"""The file system: every operation goes to the backing directory, unless a fault strikes it.

Names and sizes go through at once; data that was not fsynced lies in the overlay. Operations raise OSError, which
FUSE hands to the caller as its error number.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Any

import mfusepy

from failover.drill.faultfs import strikes
from failover.drill.faultfs.handles import Handle, Handles
from failover.drill.faultfs.namespace import Namespace
from failover.drill.faultfs.overlay import Overlay
from failover.drill.faultfs.spec import BLOCK_BYTES, Kind, Op
from failover.drill.faultfs.table import Armed, FaultTable
from failover.drill.faultfs.threads import stay

_STAT = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_blksize", "st_ino")
_STATVFS = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail", "f_namemax")
_NOT_PASSED_ON = os.O_DIRECT | os.O_APPEND
"""Our buffers are not aligned, and the kernel has worked the offset of an append out already."""
_ST_RDONLY = 1


class FaultFs(mfusepy.Operations):  # type: ignore[misc]
    """Serves `backing`. Called by several threads at a time."""

    use_ns = True

    def __init__(self, backing: str, table: FaultTable, overlay: Overlay) -> None:
        self._backing = backing
        self._table = table
        self._overlay = overlay
        self._handles = Handles()
        self.names = Namespace(backing, table, overlay, self._handles)
        for operation in Namespace.OPERATIONS:
            setattr(self, operation, getattr(self.names, operation))

    # --- open and close ---

    def open(self, path: str, flags: int) -> int:
        struck = self._table.strike(Op.OPEN, path)
        strikes.hold_up(struck)
        is_write = flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC)
        strikes.refuse([armed for armed in struck if is_write or armed.fault.kind is not Kind.EROFS])
        handle = self._opened(path, flags)
        if flags & os.O_TRUNC:
            self._overlay.truncate(handle.key, handle.fd, 0)
        return handle.fd

    def create(self, path: str, mode: int, flags: int) -> int:
        self.names.may_change(path)
        handle = self._opened(path, flags | os.O_CREAT, mode)
        self.names.give_to_caller(handle.fd)
        return handle.fd

    def _opened(self, path: str, flags: int, mode: int = 0o600) -> Handle:
        flags &= ~_NOT_PASSED_ON
        if flags & os.O_WRONLY:  # part of a block is written by reading the rest of it
            flags = flags & ~os.O_WRONLY | os.O_RDWR
        return self._handles.add(os.open(self._real(path), flags | os.O_CLOEXEC, mode), path)

    def release(self, path: str, fh: int) -> int:
        handle, is_last = self._handles.remove(fh)
        if is_last and os.fstat(fh).st_nlink == 0:
            self._overlay.forget(handle.key)
        os.close(fh)
        return 0

    # --- data ---

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        stay()
        handle = self._handles.get(fh)
        struck = self._struck(Op.READ, handle, offset, size)
        if not struck:
            return self._overlay.read(handle.key, fh, size, offset)
        strikes.hold_up(struck)
        strikes.refuse(struck)
        return strikes.read_back(struck, self._overlay.read(handle.key, fh, size, offset))

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        stay()
        handle = self._handles.get(fh)
        struck = self._struck(Op.WRITE, handle, offset, len(data))
        if not struck:
            self._overlay.write(handle.key, fh, data, offset)
            self._table.written_again(handle.path, offset, data)
            return len(data)
        strikes.hold_up(struck)
        strikes.refuse(struck)
        pieces, elsewhere = strikes.written(struck, data, offset)
        for at, piece in pieces:
            self._overlay.write(handle.key, fh, piece, at)
        if elsewhere is not None:
            self._write_elsewhere(handle, elsewhere, data)
        elif pieces == [(offset, data)]:
            self._table.written_again(handle.path, offset, data)
        return len(data)

    def _write_elsewhere(self, handle: Handle, elsewhere: strikes.Misdirected, data: bytes) -> None:
        at = elsewhere.block * BLOCK_BYTES
        if elsewhere.path is None:
            self._overlay.write(handle.key, handle.fd, data, at)
            return
        other = self._opened("/" + elsewhere.path.lstrip("/"), os.O_RDWR)
        try:
            self._overlay.write(other.key, other.fd, data, at)
        finally:
            self.release(other.path, other.fd)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        stay()
        handle = self._handles.get(fh)
        struck = self._table.strike(Op.FSYNC, handle.path)
        strikes.hold_up(struck)
        strikes.refuse(struck)
        if any(armed.fault.kind is Kind.FSYNC_LIES for armed in struck):
            # As Linux does: the pages count as clean from now on, so nothing ever writes them.
            self._overlay.drop(handle.key)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._overlay.sync(handle.key, fh, data_only=bool(datasync))
        return 0

    def flush(self, path: str, fh: int) -> int:
        return 0

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        if fh is not None:
            self._truncate(self._handles.get(fh), length)
            return 0
        handle = self._opened(path, os.O_RDWR)
        try:
            self._truncate(handle, length)
        finally:
            self.release(path, handle.fd)
        return 0

    def _truncate(self, handle: Handle, length: int) -> None:
        struck = self._table.strike(Op.WRITE, handle.path)
        strikes.hold_up(struck)
        strikes.refuse(struck)
        self._overlay.truncate(handle.key, handle.fd, length)

    def fallocate(self, path: str, mode: int, offset: int, size: int, fh: int) -> int:
        if mode:
            raise OSError(
                errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)
            )  # punching holes and the like: nobody needs it here
        handle = self._handles.get(fh)
        struck = self._struck(Op.WRITE, handle, offset, size)
        strikes.hold_up(struck)
        strikes.refuse(struck)
        self._overlay.allocate(handle.key, fh, offset, size)
        return 0

    # --- what is where ---

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        found = os.fstat(fh) if fh is not None else os.lstat(self._real(path))
        values: dict[str, Any] = {name: getattr(found, name) for name in _STAT}
        values |= {"st_atime": found.st_atime_ns, "st_mtime": found.st_mtime_ns, "st_ctime": found.st_ctime_ns}
        if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
            values["st_rdev"] = found.st_rdev
        return values

    def readdir(self, path: str, fh: int) -> Iterator[tuple[str, dict[str, int], int]]:
        with os.scandir(self._real(path)) as entries:
            found = [(entry.name, {"st_ino": entry.inode(), "st_mode": _mode(entry)}, 0) for entry in entries]
        here = {"st_ino": os.lstat(self._real(path)).st_ino, "st_mode": stat.S_IFDIR}
        yield from ((".", here, 0), ("..", here, 0), *found)

    def readlink(self, path: str) -> str:
        return os.readlink(self._real(path))

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._real(path))
        values = {name: getattr(found, name) for name in _STATVFS}
        if self._table.is_active(Op.WRITE, Kind.ENOSPC):
            values |= {"f_bfree": 0, "f_bavail": 0}
        read_only = _ST_RDONLY if self._table.is_active(Op.WRITE, Kind.EROFS) else 0
        return {**values, "f_flag": found.f_flag | read_only}

    def destroy(self, path: str) -> None:
        """At a clean end. What was held up goes on first."""
        self._table.disarm()
        self._overlay.write_all_back()

    def _struck(self, op: Op, handle: Handle, offset: int, size: int) -> list[Armed]:
        if self._table.is_empty:  # the way of nearly all operations
            return []
        blocks = offset // BLOCK_BYTES, max(offset, offset + size - 1) // BLOCK_BYTES
        return self._table.strike(op, handle.path, blocks, size=os.fstat(handle.fd).st_size)

    def _real(self, path: str) -> str:
        return self._backing + path


def _mode(entry: os.DirEntry[str]) -> int:
    """Its type, which is all that a directory's list tells of it."""
    if entry.is_symlink():
        return stat.S_IFLNK
    return stat.S_IFDIR if entry.is_dir(follow_symlinks=False) else stat.S_IFREG
