"""Receipts on disk: append-only files of framed records, fsynced in batches by one thread. Blocks; see receipts.py.

A file is a magic line, then records: length and CRC-32 (four bytes each, big endian), then that many bytes. A record that
a crash cut off at the end of the newest file is dropped; damage anywhere else is told, and what follows it is not read.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from replication.model import Receipt

MAGIC = b"locum receipts 1\n"
FILE_BYTES_MAX = 8 * 1024 * 1024
_HEADER_BYTES = 8
_RECORD_BYTES_MAX = 1024 * 1024


class Stored(msgspec.Struct, frozen=True):
    """A receipt with the row itself, encrypted (seal.py)."""

    receipt: Receipt
    row: bytes


class Damage(msgspec.Struct, frozen=True):
    """A place in a receipts file that cannot be read."""

    path: str
    offset: int


def frame(stored: Stored) -> bytes:
    """One record as it lies in a file."""
    body = msgspec.msgpack.encode(stored)
    return len(body).to_bytes(4, "big") + zlib.crc32(body).to_bytes(4, "big") + body


def parse(data: bytes) -> tuple[list[Stored], int]:
    """Every whole record from the start on, and the offset behind the last one."""
    if not data.startswith(MAGIC):
        return [], 0
    found: list[Stored] = []
    offset = len(MAGIC)
    while (record := _record_at(data, offset)) is not None:
        stored, offset = record
        found.append(stored)
    return found, offset


def _record_at(data: bytes, offset: int) -> tuple[Stored, int] | None:
    length = int.from_bytes(data[offset : offset + 4], "big")
    end = offset + _HEADER_BYTES + length
    if not 0 < length <= _RECORD_BYTES_MAX or end > len(data):
        return None
    body = data[offset + _HEADER_BYTES : end]
    if zlib.crc32(body) != int.from_bytes(data[offset + 4 : offset + _HEADER_BYTES], "big"):
        return None
    try:
        return msgspec.msgpack.decode(body, type=Stored), end
    except msgspec.DecodeError:
        return None


class ReceiptFiles:
    """The files of one directory. Only one thread at a time may call it; raises OSError of the disk."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0
        self._file: int | None = None
        self._bytes = 0

    def read(self) -> tuple[dict[int, list[Stored]], list[Damage]]:
        """Every record by file number, and what cannot be read. A torn end of the newest file is cut off."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found: dict[int, list[Stored]] = {}
        damage: list[Damage] = []
        numbers = sorted(self._numbers())
        for number in numbers:
            path = self._path(number)
            data = path.read_bytes()
            found[number], end = parse(data)
            if end < len(data):
                if number != numbers[-1] or _is_whole_somewhere(data, end):
                    damage.append(Damage(path.name, end))
                else:
                    os.truncate(path, end)
        # Never append to a file that may be damaged in the middle.
        self._number = numbers[-1] if numbers else 0
        return found, damage

    def append(self, batch: Iterable[Stored]) -> int:
        """Write and fsync: the number of the file in which they lie."""
        file = self._file if self._file is not None and self._bytes < FILE_BYTES_MAX else self._begin()
        data = b"".join(map(frame, batch))
        try:
            if os.write(file, data) != len(data):
                raise OSError(errno.ENOSPC, "the receipts were written only in part")
            os.fsync(file)
        except OSError:
            # What of it is on the disk is not known: the next try begins a file of its own (a second copy is harmless).
            self._end()
            raise
        self._bytes += len(data)
        return self._number

    def remove(self, number: int) -> None:
        """Everything in it is certified on the standby."""
        if number != self._number:
            self._path(number).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file that is open."""
        self._end()

    def _begin(self) -> int:
        self._end()
        self._number += 1
        path = self._path(self._number)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._file = file
        self._bytes = os.write(file, MAGIC)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return file

    def _end(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _numbers(self) -> Iterator[int]:
        for path in self._directory.glob("receipts-*.log"):
            yield int(path.stem.rpartition("-")[2])

    def _path(self, number: int) -> Path:
        return self._directory / f"receipts-{number:08d}.log"


def _is_whole_somewhere(data: bytes, offset: int) -> bool:
    """Whether a whole record follows further on: then this is damage, not the end that a crash cut off."""
    return any(_record_at(data, start) is not None for start in range(offset + 1, min(len(data), offset + 65_536)))
