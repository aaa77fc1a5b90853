"""A faultfs for a test: mounted on a folder of its own, and gone afterwards."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from failover.drill.faultfs.client import FaultFsClient
from failover.drill.faultfs.launch import command, is_mounted, unmount, why_no_fuse

ROOT = Path(__file__).resolve().parents[3]
needs_fuse = pytest.mark.skipif(why_no_fuse() is not None, reason=str(why_no_fuse()))
_DEADLINE_S = 20.0


class Mounted(NamedTuple):
    """A disk that can be faulty."""

    path: Path
    backing: Path
    client: FaultFsClient
    process: subprocess.Popen[bytes]


@contextmanager
def mounted(place: Path, *, cached: bool = False) -> Iterator[Mounted]:
    """Below `place`, which another account may enter when the test runs as root."""
    backing, mount = place / "backing", place / "disk"
    backing.mkdir()
    mount.mkdir()
    words = command(backing, mount, place / "socket", log=place / "fired.log", cached=cached)
    with (place / "faultfs.out").open("wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        until = time.monotonic() + _DEADLINE_S
        while not (is_mounted(mount) and (place / "socket").is_socket()):
            assert process.poll() is None, (place / "faultfs.out").read_text()
            assert time.monotonic() < until, "it was not mounted in time"
            time.sleep(0.02)
        yield Mounted(mount, backing, FaultFsClient(place / "socket"), process)
    finally:
        unmount(mount)
        process.terminate()
        process.wait(_DEADLINE_S)
