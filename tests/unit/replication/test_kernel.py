"""What the kernel counts against a disk, from a made-up sysfs, and what its log says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from replication.probes.kernel import Counter, devices_under, grown, read_counters
from replication.probes.kmsg import error_in


def sysfs(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def link_to_own_disk(sys: Path, directory: Path, target: Path) -> None:
    number = directory.stat().st_dev
    link = sys / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(target)


def test_a_partition_on_an_array_leads_to_its_members(tmp_path: Path) -> None:
    sys = sysfs(
        tmp_path / "sys",
        {
            "devices/virtual/block/md0/md0p1/partition": "1",
            "devices/pci/block/sda/stat": "",
            "devices/pci/block/sda/sda2/partition": "2",
        },
    )
    array = sys / "devices/virtual/block/md0"
    (array / "slaves").mkdir()
    (array / "slaves/sda2").symlink_to(sys / "devices/pci/block/sda/sda2")
    link_to_own_disk(sys, tmp_path, array / "md0p1")
    assert devices_under(tmp_path, sys) == ["md0p1", "md0", "sda2", "sda"]


def test_a_file_system_without_a_device_has_no_counters(tmp_path: Path) -> None:
    assert devices_under(tmp_path, tmp_path / "nothing") == []
    assert read_counters([], tmp_path) == []


def test_counters_are_read_and_one_that_grew_is_found(tmp_path: Path) -> None:
    files = {
        "class/block/sda/device/ioerr_cnt": "0x2\n",
        "fs/ext4/sda1/errors_count": "0\n",
        "class/block/md0/md/degraded": "0\n",
        "class/block/md0/md/dev-sda2/errors": "7\n",
    }
    sys = sysfs(tmp_path, files)
    devices = ["sda", "sda1", "md0"]
    first = read_counters(devices, sys)
    assert {(one.device, one.value) for one in first} == {("sda", 2), ("sda1", 0), ("md0", 0), ("md0", 7)}
    assert grown(first, first) == []
    sysfs(tmp_path, {"fs/ext4/sda1/errors_count": "1\n", "class/block/md0/md/degraded": "1\n"})
    found = grown(first, read_counters(devices, sys))
    assert [(one.counter.what, one.is_error) for one in found] == [("missing members", False), ("ext4 errors", True)]
    assert "ext4 errors of sda1: 1, 0 before" in found[1].sentence


def test_an_array_that_was_degraded_from_the_start_is_told_and_old_errors_are_not() -> None:
    degraded, old = Counter("md0", "missing members", 1), Counter("sda", "failed commands", 9)
    assert [one.counter for one in grown([], [degraded, old])] == [degraded]


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ("3,1234,987,-;I/O error, dev sda, sector 2048 op 0x1:(WRITE)\n SUBSYSTEM=block", True),
        ("3,1,2,-;critical medium error, dev sda, sector 77 op 0x0:(READ) flags 0x0", True),
        ("3,1,2,-;Buffer I/O error on dev sda1, logical block 5, async page read", True),
        (
            "2,1,2,-;EXT4-fs error (device sda1): ext4_find_entry:1436: inode #2: comm ls: reading directory lblock 0",
            True,
        ),
        ('1,1,2,-;XFS (sda1): metadata I/O error in "xfs_buf_ioend+0x1" at daddr 0x40 len 8 error 5', True),
        ("3,1,2,-;I/O error, dev sdb, sector 2048", False),
        ("6,1,2,-;EXT4-fs (sda1): mounted filesystem with ordered data mode", False),
        ("6,1,2,-;usb 1-1: new device sda", False),
        ("not a record", False),
    ],
)
def test_only_errors_of_its_own_disk_are_heard(record: str, found: bool) -> None:
    said = error_in(record, {"sda", "sda1"})
    assert (said is not None) is found
    if said is not None:
        assert "SUBSYSTEM" not in said
