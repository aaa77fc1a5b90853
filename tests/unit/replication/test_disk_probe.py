"""The disk probe: what it reports of a good disk, a bad one, a full one, and one that hangs."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from replication.model import DataDirectory, FaultKind
from replication.probes import disk
from replication.probes.disk import DiskProbe, DiskResult, probe_directory, probe_volumes


def present() -> DataDirectory:
    return DataDirectory.PRESENT


def test_a_good_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    result = probe_volumes(lambda: [tmp_path], present, 1)
    assert result.error is None and result.fault is None and result.data is DataDirectory.PRESENT
    assert result.bytes_free is not None and result.bytes_total is not None
    assert 0 < result.bytes_free <= result.bytes_total
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EIO, FaultKind.STORAGE_ERROR),
        (errno.ENOSPC, FaultKind.STORAGE_FULL),
        (errno.EDQUOT, FaultKind.STORAGE_FULL),
        (errno.EROFS, FaultKind.READ_ONLY),
        (errno.ENODEV, FaultKind.STORAGE_ERROR),
    ],
)
def test_errno_names_the_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: FaultKind) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(disk.os, "fsync", failing)
    result = probe_volumes(lambda: [tmp_path], present, 1)
    assert result.fault is kind and result.data is None
    assert os.strerror(code) in (result.error or "")


def test_a_full_disk(tmp_path: Path) -> None:
    """The kernel's own ENOSPC, from /dev/full."""
    (tmp_path / f".locum-probe-{os.getpid()}").symlink_to("/dev/full")
    result = probe_volumes(lambda: [tmp_path], present, 1)
    assert result.fault is FaultKind.STORAGE_FULL
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_gives_back_other_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_read_back", lambda path: bytes(disk.BLOCK_BYTES))
    with pytest.raises(OSError, match="other bytes") as caught:
        probe_directory(tmp_path, 7)
    assert caught.value.errno == errno.EIO


def test_a_disk_that_is_gone(tmp_path: Path) -> None:
    assert probe_volumes(lambda: [tmp_path / "gone"], present, 1).fault is FaultKind.STORAGE_ERROR


def test_a_hanging_disk_is_seen_from_outside_and_not_probed_twice(tmp_path: Path) -> None:
    """Opening a FIFO without a reader blocks in the kernel, as a read from a stalled disk does."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    ended = threading.Event()

    def stalled() -> list[Path]:
        os.close(os.open(fifo, os.O_WRONLY))
        return [tmp_path]

    def done(_: DiskResult) -> None:
        ended.set()

    probe = DiskProbe(stalled, present, deadline_ms=20)
    assert probe.start(done)
    until_s = time.monotonic() + 10  # a crowded machine is given more than the deadline
    while (report := probe.report()) is None and time.monotonic() < until_s:
        assert not ended.wait(0.01)
    assert report is not None and not report.ok and report.fault is FaultKind.STORAGE_STALLED
    assert report.running_ms is not None and report.running_ms > 20
    assert not probe.start(done)
    reader = os.open(fifo, os.O_RDONLY)
    assert ended.wait(5)
    os.close(reader)
    report = probe.report()
    assert report is not None and report.ok and report.running_ms is None
