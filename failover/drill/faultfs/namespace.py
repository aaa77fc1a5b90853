"""What changes names, owners and directories: through to the backing directory at once.

A rename that is to be lost is remembered with what it replaced, and undone when the machine loses what was not synced.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mfusepy

from failover.drill.faultfs import strikes
from failover.drill.faultfs.handles import Handles
from failover.drill.faultfs.overlay import Overlay
from failover.drill.faultfs.spec import Kind, Op
from failover.drill.faultfs.table import FaultTable

_ROOT = 0
_NOW, _OMIT = (1 << 30) - 1, (1 << 30) - 2
"""UTIME_NOW and UTIME_OMIT of utimensat(2), where nanoseconds are expected."""


class _Renamed(NamedTuple):
    old: str
    new: str
    replaced: str | None
    """Where what had the new name before is kept."""


class Namespace:
    """`keep_in`: a directory beside the backing one, on the same file system, for what lost renames replaced."""

    OPERATIONS = (
        "chmod",
        "chown",
        "fsyncdir",
        "link",
        "mkdir",
        "mknod",
        "rename",
        "rmdir",
        "symlink",
        "unlink",
        "utimens",
    )

    def __init__(self, backing: str, table: FaultTable, overlay: Overlay, handles: Handles) -> None:
        self._backing = backing
        self._table = table
        self._overlay = overlay
        self._handles = handles
        self._lock = threading.Lock()
        self._renamed: list[_Renamed] = []
        self._kept = 0

    def may_change(self, path: str) -> None:
        """Whatever changes a name is a write. Raises OSError."""
        struck = self._table.strike(Op.WRITE, path)
        strikes.hold_up(struck)
        strikes.refuse(struck)

    def give_to_caller(self, what: int | str) -> None:
        """A file belongs to who made it: without that, initdb by another account than ours fails."""
        uid, gid, _ = mfusepy.fuse_get_context()
        if os.geteuid() != _ROOT or (uid, gid) == (os.geteuid(), os.getegid()):
            return
        if isinstance(what, int):
            os.fchown(what, uid, gid)
        else:
            os.lchown(what, uid, gid)

    def chmod(self, path: str, mode: int) -> int:
        self.may_change(path)
        os.chmod(self._real(path), mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        self.may_change(path)
        os.lchown(self._real(path), uid, gid)
        return 0

    def utimens(self, path: str, times: Sequence[int] | None = None) -> int:
        real = self._real(path)
        found = os.lstat(real)
        given = (_NOW, _NOW) if times is None else (int(times[0]), int(times[1]))
        now = time.time_ns()
        atime, mtime = (
            now if value == _NOW else was if value == _OMIT else value
            for value, was in zip(given, (found.st_atime_ns, found.st_mtime_ns), strict=True)
        )
        os.utime(real, ns=(atime, mtime), follow_symlinks=False)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        self.may_change(path)
        os.mkdir(self._real(path), mode)
        self.give_to_caller(self._real(path))
        return 0

    def mknod(self, path: str, mode: int, dev: int) -> int:
        self.may_change(path)
        os.mknod(self._real(path), mode, dev)
        self.give_to_caller(self._real(path))
        return 0

    def rmdir(self, path: str) -> int:
        self.may_change(path)
        os.rmdir(self._real(path))
        return 0

    def symlink(self, target: str, source: str) -> int:
        """`target` is the new name (FUSE's order)."""
        self.may_change(target)
        os.symlink(source, self._real(target))
        self.give_to_caller(self._real(target))
        return 0

    def link(self, target: str, source: str) -> int:
        """`target` is the new name (FUSE's order)."""
        self.may_change(target)
        os.link(self._real(source), self._real(target))
        return 0

    def unlink(self, path: str) -> int:
        self.may_change(path)
        gone = self._only_name_of(path)
        os.unlink(self._real(path))
        self._table.gone(path)
        self._forget(gone)
        return 0

    def rename(self, old: str, new: str) -> int:
        self.may_change(new)
        if any(armed.fault.kind is Kind.LOST_RENAME for armed in self._table.strike(Op.RENAME, new)):
            self._rename_to_be_lost(old, new)
            return 0
        gone = self._only_name_of(new)
        os.rename(self._real(old), self._real(new))
        for path in (old, new):
            self._table.gone(path)
        self._forget(gone)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        struck = self._table.strike(Op.FSYNC, path)
        strikes.hold_up(struck)
        strikes.refuse(struck)
        directory = os.open(self._real(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return 0

    def undo_lost_renames(self) -> int:
        """The machine has lost power: the names are as before. How many."""
        with self._lock:
            renamed, self._renamed = self._renamed, []
        for one in reversed(renamed):
            if Path(self._real(one.new)).exists():
                os.rename(self._real(one.new), self._real(one.old))
            if one.replaced is not None:
                os.rename(one.replaced, self._real(one.new))
        return len(renamed)

    def forget_lost_renames(self) -> None:
        """Nothing was lost: what they replaced is not needed any more."""
        with self._lock:
            renamed, self._renamed = self._renamed, []
        for one in renamed:
            if one.replaced is not None:
                os.unlink(one.replaced)

    def _rename_to_be_lost(self, old: str, new: str) -> None:
        with self._lock:
            replaced = None
            if Path(self._real(new)).exists():
                self._kept += 1
                replaced = f"{self._backing}.replaced{self._kept}"
                os.link(self._real(new), replaced)
            os.rename(self._real(old), self._real(new))
            self._renamed.append(_Renamed(old, new, replaced))

    def _only_name_of(self, path: str) -> tuple[int, int] | None:
        """Its key, when the file is gone with this name."""
        try:
            found = os.lstat(self._real(path))
        except FileNotFoundError:
            return None
        return (found.st_dev, found.st_ino) if found.st_nlink == 1 else None

    def _forget(self, key: tuple[int, int] | None) -> None:
        if key is not None and not self._handles.is_open(key):
            self._overlay.forget(key)

    def _real(self, path: str) -> str:
        return self._backing + path
