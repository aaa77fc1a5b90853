"""The self-test of a disk that is not trusted any more: what is written there comes back, at once and after it was overwritten.

Run before a quarantined node is rebuilt (DESIGN section 6, return after a failover): a disk that lost, altered or misplaced a write
would do it again to the copy. Blocks.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np

from replication.page_size import PAGE_BYTES
from replication.relation_files import open_past_cache, read_at

_NAME = "locum_selftest"
_CHUNK_PAGES = 128
_CHUNK_BYTES = _CHUNK_PAGES * PAGE_BYTES


class SelfTestFailed(Exception):
    """The disk did not give back what was written: says where."""


def self_test(directories: list[Path], megabytes: int, seed: int) -> int:
    """Test each directory's disk with so much data; how many bytes were written and compared.

    Raises SelfTestFailed, or OSError when the disk says itself that it cannot.
    """
    return sum(_one(directory / _NAME, megabytes, seed) for directory in directories)


def _one(path: Path, megabytes: int, seed: int) -> int:
    chunks = max(1, megabytes * 1024 * 1024 // _CHUNK_BYTES)
    try:
        _write(path, {number: _content(seed, number) for number in range(chunks)})
        _compare(path, dict.fromkeys(range(chunks), seed), "written")
        again = {number: seed + 1 + number % 2 for number in range(0, chunks, 2)}
        _write(path, {number: _content(other, number) for number, other in again.items()})
        _compare(path, {number: again.get(number, seed) for number in range(chunks)}, "overwritten in part")
        return (chunks + len(again)) * _CHUNK_BYTES
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _content(seed: int, number: int) -> bytes:
    """Every page of every chunk is another, so that one that comes back from elsewhere is seen."""
    return np.random.default_rng((seed, number)).bytes(_CHUNK_BYTES)


def _write(path: Path, chunks: dict[int, bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for number, content in chunks.items():
            for at in range(0, _CHUNK_BYTES, PAGE_BYTES):  # as PostgreSQL writes
                written = os.pwrite(descriptor, content[at : at + PAGE_BYTES], number * _CHUNK_BYTES + at)
                if written != PAGE_BYTES:
                    raise SelfTestFailed(
                        f"{path.parent}: {written} of {PAGE_BYTES} bytes were taken at {number * _CHUNK_BYTES + at}"
                    )
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _compare(path: Path, seeds: dict[int, int], when: str) -> None:
    descriptor, _cached = open_past_cache(path)
    try:
        for number in sorted(seeds, reverse=True):
            found = read_at(descriptor, number * _CHUNK_PAGES, _CHUNK_PAGES)
            if found != _content(seeds[number], number):
                raise SelfTestFailed(f"{path.parent}: what was {when} did not come back at {number * _CHUNK_BYTES}")
    finally:
        os.close(descriptor)
