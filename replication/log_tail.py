"""PostgreSQL's log as it is written: JSON lines, noticed through inotify, so nothing waits for a poll."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

_IN_MODIFY = 0x2
_IN_CREATE = 0x100
_IN_MOVED_TO = 0x80
_READ_BYTES_MAX = 1024 * 1024
_LINE_BYTES_MAX = 256 * 1024


class LogLine(msgspec.Struct, frozen=True):
    """The fields of a jsonlog line that matter here (PostgreSQL documentation, section 19.8)."""

    message: str = ""
    detail: str = ""
    context: str = ""
    error_severity: str = ""
    state_code: str = ""
    backend_type: str = ""
    pid: int = 0
    timestamp: str = ""


class LogTail:
    """Calls `heard` on the event loop for every new line of the directory's `*.json` files, until `close`.

    What was written before it began is not told again. Raises OSError when the kernel has no inotify instance left.
    """

    def __init__(self, directory: Path, heard: Callable[[LogLine], None]) -> None:
        self._directory = directory
        self._heard = heard
        self._offsets = {path.name: path.stat().st_size for path in directory.glob("*.json")}
        self._rest: dict[str, bytes] = {}
        self._inotify = _watch(directory)
        asyncio.get_running_loop().add_reader(self._inotify, self.read)

    def read(self) -> None:
        """Look at every log file now."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._inotify, 65_536):
                pass
        for path in sorted(self._directory.glob("*.json")):
            self._read_file(path)

    def close(self) -> None:
        """Stop listening."""
        asyncio.get_running_loop().remove_reader(self._inotify)
        os.close(self._inotify)

    def _read_file(self, path: Path) -> None:
        offset = self._offsets.get(path.name, 0)
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < offset:
                offset, self._rest[path.name] = 0, b""
            if size - offset > _READ_BYTES_MAX:
                # A storm of errors: the newest are what matters, and the event loop must not stall over the rest.
                offset, self._rest[path.name] = size - _READ_BYTES_MAX, b""
            file.seek(offset)
            data = file.read(size - offset)
            self._offsets[path.name] = offset + len(data)
            *lines, rest = (self._rest.get(path.name, b"") + data).split(b"\n")
            self._rest[path.name] = rest if len(rest) <= _LINE_BYTES_MAX else b""
            for line in lines:
                with contextlib.suppress(msgspec.DecodeError):
                    self._heard(msgspec.json.decode(line, type=LogLine))


def _watch(directory: Path) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"inotify_init1: {os.strerror(code)}")
    if libc.inotify_add_watch(descriptor, os.fsencode(directory), _IN_MODIFY | _IN_CREATE | _IN_MOVED_TO) < 0:
        code = ctypes.get_errno()
        os.close(descriptor)
        raise OSError(code, f"cannot watch {directory}: {os.strerror(code)}")
    return descriptor
