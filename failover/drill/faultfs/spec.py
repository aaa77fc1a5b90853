"""What can be wrong with a disk: the faults that faultfs knows, as plain values. Pure."""

from __future__ import annotations

import fnmatch
import re
from enum import StrEnum
from typing import Any

import msgspec

BLOCK_BYTES = 8192
"""A fault's blocks are PostgreSQL's: 8 KB each, counted within one file."""


class FaultRefused(ValueError):
    """A fault that makes no sense; the sentence says why, and nothing was armed."""


class Op(StrEnum):
    """Where a fault strikes. `write` includes what changes names and sizes; `any`: wherever its kind can."""

    READ = "read"
    WRITE = "write"
    FSYNC = "fsync"
    OPEN = "open"
    RENAME = "rename"
    ANY = "any"


class Files(StrEnum):
    """Which of PostgreSQL's files a fault strikes."""

    RELATION = "relation"
    WAL = "wal"
    XACT = "pg_xact"
    CONTROL = "pg_control"
    OTHER = "other"
    ANY = "any"


class Kind(StrEnum):
    """What happens."""

    EIO = "eio"
    ENOSPC = "enospc"
    EROFS = "erofs"
    STALL = "stall"
    """The operation returns when the fault is healed, or after `duration_ms`."""
    SLOW = "slow"
    """It takes `latency_ms` longer."""
    BIT_FLIP = "bit_flip"
    """One bit of what is read, or written, is turned."""
    TORN_WRITE = "torn_write"
    """Only the first 512 to 7,680 bytes of each block arrive; the write is reported as whole."""
    LOST_WRITE = "lost_write"
    """Reported as written, and dropped."""
    MISDIRECTED_WRITE = "misdirected_write"
    """Written over block `to_block` of the same file, or of the file `to_path`."""
    LOST_RENAME = "lost_rename"
    """Undone when the machine loses what was not synced, as if its directory had never been."""
    FSYNC_LIES = "fsync_lies"
    """One fsync fails, what it should have written is gone, and the next one reports success."""


_STRIKES: dict[Kind, frozenset[Op]] = {
    Kind.EIO: frozenset({Op.READ, Op.WRITE, Op.FSYNC, Op.OPEN}),
    Kind.ENOSPC: frozenset({Op.WRITE}),
    Kind.EROFS: frozenset({Op.WRITE, Op.OPEN}),
    Kind.STALL: frozenset({Op.READ, Op.WRITE, Op.FSYNC, Op.OPEN}),
    Kind.SLOW: frozenset({Op.READ, Op.WRITE, Op.FSYNC, Op.OPEN}),
    Kind.BIT_FLIP: frozenset({Op.READ, Op.WRITE}),
    Kind.TORN_WRITE: frozenset({Op.WRITE}),
    Kind.LOST_WRITE: frozenset({Op.WRITE}),
    Kind.MISDIRECTED_WRITE: frozenset({Op.WRITE}),
    Kind.LOST_RENAME: frozenset({Op.RENAME}),
    Kind.FSYNC_LIES: frozenset({Op.FSYNC}),
}

ON_DATA = frozenset({Kind.BIT_FLIP, Kind.TORN_WRITE, Kind.LOST_WRITE, Kind.MISDIRECTED_WRITE})
"""Kinds that need bytes: a truncation or a rename has none."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that is wrong, and where.

    `path`: a pattern (fnmatch) of the path below the mount, beside `files`. `first_block` and `last_block` are inclusive.
    It strikes with `probability`, by the generator of `seed`, `count` times at most (None: no limit), for `duration_ms`
    (None: until healed).
    """

    kind: Kind
    op: Op = Op.ANY
    files: Files = Files.ANY
    path: str | None = None
    first_block: int | None = None
    last_block: int | None = None
    probability: float = 1.0
    seed: int = 0
    count: int | None = None
    duration_ms: int | None = None
    latency_ms: int = 0
    to_block: int | None = None
    to_path: str | None = None

    def ops(self) -> frozenset[Op]:
        """Where it can strike."""
        return _STRIKES[self.kind] if self.op is Op.ANY else frozenset({self.op})

    def concerns(self, op: Op, path: str, first_block: int | None, last_block: int | None) -> bool:
        """This operation is one that it may strike. Without blocks: an operation on the file as a whole."""
        if op not in self.ops():
            return False
        if self.files is not Files.ANY and files_of(path) is not self.files:
            return False
        if self.path is not None and not fnmatch.fnmatchcase(path.lstrip("/"), self.path):
            return False
        if self.first_block is None and self.last_block is None:
            return True
        if first_block is None or last_block is None:
            return False
        low = self.first_block if self.first_block is not None else 0
        high = self.last_block if self.last_block is not None else last_block
        return first_block <= high and last_block >= low


_RELATION = re.compile(r"^/(base/\d+|global|pg_tblspc/\d+/PG_[^/]+/\d+)/(t\d+_)?\d+(_(fsm|vm|init))?(\.\d+)?$")


def files_of(path: str) -> Files:
    """What PostgreSQL keeps in the file (doc/src/sgml/storage.sgml). `path` begins with a slash, below the data directory."""
    if path.startswith("/pg_wal/"):
        return Files.WAL
    if path.startswith("/pg_xact/"):
        return Files.XACT
    if path == "/global/pg_control":
        return Files.CONTROL
    return Files.RELATION if _RELATION.match(path) else Files.OTHER


def parse_fault(given: object) -> Fault:
    """A fault from JSON. Raises FaultRefused."""
    try:
        fault = msgspec.convert(given, type=Fault)
    except msgspec.ValidationError as error:
        raise FaultRefused(str(error)) from error
    _check(fault)
    return fault


def _check(fault: Fault) -> None:
    possible = ", ".join(sorted(_STRIKES[fault.kind]))
    if not fault.ops() <= _STRIKES[fault.kind]:
        raise FaultRefused(f"{fault.kind} strikes at {possible}, not at {fault.op}")
    if not 0 < fault.probability <= 1:
        raise FaultRefused(f"a probability lies above 0 and at most at 1, not at {fault.probability}")
    _check_numbers(fault)
    is_slow, is_aimed = fault.kind is Kind.SLOW, fault.kind is Kind.MISDIRECTED_WRITE
    if is_slow != (fault.latency_ms > 0):
        raise FaultRefused("slow, and nothing else, needs a latency_ms above 0")
    if is_aimed != (fault.to_block is not None):
        raise FaultRefused("misdirected_write, and nothing else, needs a to_block")
    if fault.to_path is not None and (not is_aimed or ".." in fault.to_path.split("/")):
        raise FaultRefused("to_path is where a misdirected_write goes, below the mount")


def _check_numbers(fault: Fault) -> None:
    values: dict[str, Any] = {
        name: getattr(fault, name) for name in ("first_block", "last_block", "duration_ms", "latency_ms", "to_block")
    }
    for name, value in values.items():
        if value is not None and value < 0:
            raise FaultRefused(f"{name} is not negative")
    if fault.count is not None and fault.count < 1:
        raise FaultRefused("count is at least 1")
    if fault.first_block is not None and fault.last_block is not None and fault.first_block > fault.last_block:
        raise FaultRefused("first_block lies above last_block")
