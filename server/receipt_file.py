"""Receipts on disk: append-only files of framed records, fsynced in batches by one thread. Blocks; see receipts.py.

A file is a magic line, then records: length and CRC-32 (four bytes each, big endian), then that many bytes, then zeros. A
record that a crash cut off at the end of the newest file is dropped; damage anywhere else is told, and what follows it is
not read.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

import msgspec

from replication.model import Receipt

MAGIC = b"locum receipts 1\n"
FILE_BYTES = 2 * 1024 * 1024
_HEADER_BYTES = 8
_RECORD_BYTES_MAX = 1024 * 1024
_TAKEN_AT_ONCE = 500


class Stored(msgspec.Struct, frozen=True):
    """A receipt with the row itself, encrypted (seal.py), and under which key it was answered; None in older files."""

    receipt: Receipt
    row: bytes
    answered: bytes | None = None


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
    found, end = parse_on(data[len(MAGIC) :])
    return found, len(MAGIC) + end


def parse_on(data: bytes) -> tuple[list[Stored], int]:
    """Every whole record of a piece that begins with one, and the offset behind the last."""
    found: list[Stored] = []
    offset = 0
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
    """The files of one directory. Only one thread at a time may call it; raises OSError of the disk.

    A file is filled with zeros before it is used, and the next one is made in time: to overwrite what is there, the file
    system need not commit its own journal, which takes milliseconds while a promotion keeps the same disk busy.
    """

    def __init__(self, directory: Path, file_bytes: int = FILE_BYTES) -> None:
        self._directory = directory
        self._file_bytes = file_bytes
        self._number = 0
        self._file: int | None = None
        self._next: int | None = None
        self._end = 0

    def read(self) -> tuple[dict[int, list[Stored]], list[Damage]]:
        """Every record by file number, and what cannot be read. What a crash cut off at the end of the newest file is
        no damage. Afterwards a file is ready to be written."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found: dict[int, list[Stored]] = {}
        damage: list[Damage] = []
        contents = {number: self._path(number).read_bytes() for number in sorted(self._numbers())}
        for number in [number for number, data in contents.items() if not any(data.removeprefix(MAGIC))]:
            self._path(number).unlink()  # made ahead of its time, and never used
            del contents[number]
        self._number = max(contents, default=0)
        for number, data in contents.items():
            found[number], end = parse(data)
            if not any(data[end:]):
                continue
            if number != self._number or _is_whole_somewhere(data, end):
                damage.append(Damage(self._path(number).name, end))
            else:
                self._cut_off(number, end)
        self.prepare()
        return found, damage

    def take_over(self, directory: Path) -> None:
        """Everything that a worker which runs no more had kept, into files of our own; then its files are removed."""
        other = ReceiptFiles(directory, self._file_bytes)
        paths = [directory / other._path(number).name for number in sorted(other._numbers())]
        stored = [item for path in paths for item in parse(path.read_bytes())[0]]
        for start in range(0, len(stored), _TAKEN_AT_ONCE):
            self.append(stored[start : start + _TAKEN_AT_ONCE])
            if self.is_next_due():
                self.prepare()
        for path in paths:
            path.unlink()

    def look_up(self, names: Container[str]) -> dict[str, list[Stored]]:
        """The stored receipts of these ids, every version that the files still have, the last one last. May be called from any
        thread."""
        found: dict[str, list[Stored]] = {}
        for number in sorted(self._numbers()):
            for stored in parse(self._path(number).read_bytes())[0]:
                if stored.receipt.id in names:
                    found.setdefault(stored.receipt.id, []).append(stored)
        return found

    def append(self, batch: Iterable[Stored]) -> int:
        """Write and sync: the number of the file in which they lie."""
        data = b"".join(map(frame, batch))
        file = self._file
        if file is None or self._end + len(data) > self._file_bytes:
            file = self._begin()
        try:
            if os.fstat(file).st_nlink == 0:
                raise OSError(errno.ENOENT, "the file of receipts was deleted")
            if os.pwrite(file, data, self._end) != len(data):
                raise OSError(errno.ENOSPC, "the receipts were written only in part")
            os.fdatasync(file)
        except OSError:
            # What of it is on the disk is not known: the next try begins a file of its own (a second copy is harmless).
            self.close()
            raise
        self._end += len(data)
        return self._number

    def is_next_due(self) -> bool:
        """Half of the file is used, and the next one is not made yet."""
        return self._next is None and (self._file is None or self._end > self._file_bytes // 2)

    def prepare(self) -> None:
        """Make the next file: zeros, on the disk with its name."""
        path = self._path(self._number + 1)
        path.unlink(missing_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, MAGIC + bytes(self._file_bytes - len(MAGIC)))
            os.fsync(file)
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError:
            os.close(file)
            raise
        self._next = file

    def remove(self, number: int) -> None:
        """Everything in it is certified on the standby."""
        if number < self._number:
            self._path(number).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files that are open."""
        for file in (self._file, self._next):
            if file is not None:
                os.close(file)
        self._file = self._next = None

    def _begin(self) -> int:
        if self._next is None:
            self.prepare()
        if self._file is not None:
            os.close(self._file)
        file, self._next = self._next, None
        if file is None:
            raise OSError(errno.EBADF, "no file of receipts could be made")
        self._file, self._end = file, len(MAGIC)
        self._number += 1
        return file

    def _cut_off(self, number: int, end: int) -> None:
        """What a crash left of a record that was never acknowledged."""
        with self._path(number).open("r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())

    def _numbers(self) -> Iterator[int]:
        for path in self._directory.glob("receipts-*.log"):
            yield int(path.stem.rpartition("-")[2])

    def _path(self, number: int) -> Path:
        return self._directory / f"receipts-{number:08d}.log"


def _is_whole_somewhere(data: bytes, offset: int) -> bool:
    """Whether a whole record follows further on: then this is damage, not the end that a crash cut off."""
    return any(_record_at(data, start) is not None for start in range(offset + 1, min(len(data), offset + 65_536)))
