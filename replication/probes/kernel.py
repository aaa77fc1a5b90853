"""What the kernel has counted against the disk that a directory lies on: errors of block devices, arrays, file systems.

Sources: Documentation/ABI in the kernel's tree (sysfs-block-device: `device/ioerr_cnt`; sysfs-fs-ext4: `errors_count`),
Documentation/admin-guide/md.rst (`md/degraded`, `md/dev-*/errors`). A counter that this account may not read, or that this
kernel has not, is left out. Blocks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

SYS = Path("/sys")


class Counter(msgspec.Struct, frozen=True, order=True):
    """One counter of one device, and what it was when it was read. `what` is as a person would look for it."""

    device: str
    what: str
    value: int

    def __str__(self) -> str:
        return f"{self.what} of {self.device}: {self.value}"


class KernelFinding(msgspec.Struct, frozen=True):
    """A counter that has grown since it was first read. `is_error`: bytes were lost or refused; else redundancy was."""

    counter: Counter
    before: int
    is_error: bool

    @property
    def sentence(self) -> str:
        """For a person."""
        return f"the kernel counts {self.counter.what} of {self.counter.device}: {self.counter.value}, {self.before} before"


def devices_under(directory: Path, sys: Path = SYS) -> list[str]:
    """Names of the block devices that a directory's bytes lie on: the disk itself, and what it is made of, from the top
    down. Empty for a file system without one (tmpfs, overlay, FUSE). Raises OSError when the directory cannot be seen."""
    number = directory.stat().st_dev
    start = sys / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}"
    found: list[str] = []
    with contextlib.suppress(OSError):
        _collect(start.resolve(strict=True), found)
    return found


def read_counters(devices: Iterable[str], sys: Path = SYS) -> list[Counter]:
    """Every counter of these devices that can be read now."""
    return sorted(counter for device in devices for counter in _of_device(device, sys))


def grown(first: Iterable[Counter], now: Iterable[Counter]) -> list[KernelFinding]:
    """What has grown since `first`. Pure."""
    before = {(counter.device, counter.what): counter.value for counter in first}
    return [
        KernelFinding(counter, known, is_error=counter.what != _DEGRADED)
        for counter in now
        if (known := before.get((counter.device, counter.what), 0 if counter.what == _DEGRADED else counter.value))
        < counter.value
    ]


_DEGRADED = "missing members"


def _collect(device: Path, found: list[str]) -> None:
    """A partition's disk, and the slaves of a mapped device or an array (sysfs, `slaves/`)."""
    disk = device.parent if (device / "partition").exists() else device
    for one in dict.fromkeys((device, disk)):
        if one.name not in found:
            found.append(one.name)
    with contextlib.suppress(OSError):
        for slave in sorted((disk / "slaves").iterdir()):
            _collect(slave.resolve(strict=True), found)


def _of_device(device: str, sys: Path) -> Iterator[Counter]:
    block = sys / "class" / "block" / device
    if (errors := _number(block / "device" / "ioerr_cnt")) is not None:
        yield Counter(device, "failed commands", errors)
    if (errors := _number(sys / "fs" / "ext4" / device / "errors_count")) is not None:
        yield Counter(device, "ext4 errors", errors)
    if (missing := _number(block / "md" / "degraded")) is not None:
        yield Counter(device, _DEGRADED, missing)
    for member in _children(block / "md", "dev-*"):
        if (errors := _number(member / "errors")) is not None:
            yield Counter(device, f"corrected errors on {member.name.removeprefix('dev-')}", errors)


def _children(folder: Path, pattern: str) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(folder.glob(pattern))
    return []


def _number(path: Path) -> int | None:
    """A counter in decimal, or in hexadecimal with 0x as SCSI writes it; None when it is not there or may not be read."""
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text(encoding="ascii").strip(), 0)
    return None
