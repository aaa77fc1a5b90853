"""The kernel's own log of disk errors, where this account may read it (dmesg_restrict): pushed as it is written.

Format: Documentation/ABI/testing/dev-kmsg. The words are those of block/blk-core.c (`I/O error, dev`), fs/buffer.c
(`Buffer I/O error on dev`), fs/ext4/super.c, fs/xfs/xfs_message.c, drivers/nvme and drivers/scsi.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path

import structlog

_log = structlog.get_logger()

KMSG = Path("/dev/kmsg")
_RECORD_BYTES_MAX = 8_192
_DEVICE = re.compile(
    r"(?:I/O error,? (?:on )?dev(?:ice)? |Buffer I/O error on dev(?:ice)? |(?:critical \w+|\w+) error, dev "
    r"|EXT4-fs(?: error)? \(device |XFS \(|BTRFS (?:error|critical) \(device )([\w-]+)"
)
_IS_ERROR = re.compile(
    r"I/O error|medium error|critical .* error|EXT4-fs error|BTRFS (?:error|critical)|metadata I/O error|Corruption"
)


def error_in(record: str, devices: Collection[str]) -> str | None:
    """The message of a kmsg record that tells of an error on one of these devices; None for every other record. Pure."""
    head, _, message = record.partition(";")
    if head.count(",") < 2:
        return None
    message = message.split("\n", 1)[0]
    named = _DEVICE.search(message)
    if named is None or named[1] not in devices or not _IS_ERROR.search(message):
        return None
    return message.strip()


class KernelLog:
    """Calls `heard` on the event loop with every such message from now on, until `close`."""

    def __init__(self, devices: Collection[str], heard: Callable[[str], None], path: Path = KMSG) -> None:
        self._devices = devices
        self._heard = heard
        self._descriptor: int | None = None
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._descriptor, 0, os.SEEK_END)
            asyncio.get_running_loop().add_reader(self._descriptor, self._read)
        except OSError as error:
            _log.info("agent.kernel_log_unreadable", error=error.strerror)
            self.close()

    @property
    def is_open(self) -> bool:
        """This account may read it."""
        return self._descriptor is not None

    def close(self) -> None:
        """Stop listening."""
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _read(self) -> None:
        while self._descriptor is not None:
            try:
                record = os.read(self._descriptor, _RECORD_BYTES_MAX)
            except BlockingIOError:
                return
            except BrokenPipeError:  # older records were overwritten before they were read
                continue
            except OSError as error:
                _log.warning("agent.kernel_log_ended", error=error.strerror)
                self.close()
                return
            if not record:
                return
            message = error_in(record.decode(errors="replace"), self._devices)
            if message is not None:
                self._heard(message)
