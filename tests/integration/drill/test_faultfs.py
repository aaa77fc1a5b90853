"""The file system as a program meets it, without and with faults."""

from __future__ import annotations

import concurrent.futures
import errno
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from failover.drill.faultfs.client import FaultFsAway, FaultFsRefused
from failover.drill.faultfs.spec import Fault, Kind, Op
from tests.integration.drill.mounts import Mounted, mounted, needs_fuse

pytestmark = needs_fuse
BLOCK = 8192


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with mounted(tmp_path_factory.mktemp("faultfs")) as found:
        yield found


@pytest.fixture(autouse=True)
def healed(disk: Mounted) -> Iterator[None]:
    yield
    disk.client.disarm()


def relation(disk: Mounted, name: str, data: bytes = b"") -> Path:
    path = disk.path / "base" / "5" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return path


def error_of(call: object, *args: object) -> int | None:
    try:
        call(*args)  # type: ignore[operator]
    except OSError as error:
        return error.errno
    return None


def test_names_modes_links_and_sizes_are_those_of_a_plain_directory(disk: Mounted) -> None:
    place = disk.path / "plain"
    place.mkdir(mode=0o700)
    file = place / "file"
    file.write_bytes(b"0123456789")
    file.chmod(0o640)
    os.link(file, place / "hard")
    (place / "soft").symlink_to("file")
    found = file.stat()
    assert (found.st_size, stat.S_IMODE(found.st_mode), found.st_uid) == (10, 0o640, os.getuid())
    assert (place / "hard").stat().st_nlink == 2
    assert abs(found.st_mtime - time.time()) < 60
    assert (place / "soft").read_bytes() == b"0123456789"
    assert (place / "hard").stat().st_ino == found.st_ino
    file.rename(place / "moved")
    os.truncate(place / "moved", 4)
    assert (place / "hard").read_bytes() == b"0123"
    with (place / "moved").open("r+b") as opened:
        os.posix_fallocate(opened.fileno(), 0, 20_000)
        opened.seek(0, os.SEEK_END)
        assert opened.tell() == 20_000
    with (place / "moved").open("ab") as appended:
        appended.write(b"end")
    assert (place / "moved").stat().st_size == 20_003
    (place / "empty").mkdir()
    assert sorted(entry.name for entry in place.iterdir()) == ["empty", "hard", "moved", "soft"]
    (place / "empty").rmdir()
    assert error_of(os.rmdir, place) == errno.ENOTEMPTY
    (place / "moved").unlink()
    assert not (place / "moved").exists()
    assert error_of(os.open, place / "moved", os.O_RDONLY) == errno.ENOENT


def test_an_unlinked_file_can_be_used_as_long_as_it_is_open(disk: Mounted) -> None:
    path = relation(disk, "100", b"a" * BLOCK)
    with path.open("r+b", buffering=0) as file:
        path.unlink()
        file.write(b"b" * 100)
        file.seek(0)
        assert file.read(101) == b"b" * 100 + b"a"


def test_direct_io_is_granted(disk: Mounted) -> None:
    path = relation(disk, "101", b"d" * BLOCK)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        assert os.pread(fd, BLOCK, 0) == b"d" * BLOCK
    finally:
        os.close(fd)


def test_several_threads_write_and_read_at_once(disk: Mounted) -> None:
    path = relation(disk, "102", bytes(BLOCK * 64))

    def work(number: int) -> None:
        fd = os.open(path, os.O_RDWR)
        try:
            for turn in range(40):
                block = number * 8 + turn % 8
                data = bytes([number, turn]) * (BLOCK // 2)
                os.pwrite(fd, data, block * BLOCK)
                if turn % 5 == 0:
                    os.fsync(fd)
                assert os.pread(fd, BLOCK, block * BLOCK) == data
        finally:
            os.close(fd)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(path.read_bytes()) == BLOCK * 64


def test_an_error_comes_where_it_was_asked_for_and_nowhere_else(disk: Mounted) -> None:
    path, other = relation(disk, "103", bytes(BLOCK * 4)), relation(disk, "104", bytes(BLOCK))
    disk.client.arm(Fault(kind=Kind.EIO, op=Op.READ, path="base/5/103", first_block=2, last_block=2, count=1))
    fd = os.open(path, os.O_RDWR)
    try:
        assert error_of(os.pread, fd, BLOCK, BLOCK) is None
        assert error_of(os.pwrite, fd, bytes(BLOCK), BLOCK * 2) is None
        assert other.read_bytes() == bytes(BLOCK)
        assert error_of(os.pread, fd, BLOCK, BLOCK * 2) == errno.EIO
        assert error_of(os.pread, fd, BLOCK, BLOCK * 2) is None, "once"
    finally:
        os.close(fd)
    (fired,) = [fired for fired in disk.client.fired() if fired["path"] == "base/5/103"]
    assert (fired["kind"], fired["op"], fired["block"], fired["existed"]) == ("eio", "read", 2, True)


def test_a_full_disk_and_a_read_only_one_say_so(disk: Mounted) -> None:
    path = relation(disk, "105", bytes(BLOCK))
    number = disk.client.arm(Fault(kind=Kind.ENOSPC))
    fd = os.open(path, os.O_RDWR)
    try:
        assert error_of(os.pwrite, fd, b"x", 0) == errno.ENOSPC
        assert error_of(os.posix_fallocate, fd, 0, BLOCK * 9) == errno.ENOSPC
        assert error_of((disk.path / "new").touch) == errno.ENOSPC
        assert os.statvfs(disk.path).f_bavail == 0
        assert os.pread(fd, 1, 0) == b"\0"
    finally:
        os.close(fd)
    disk.client.disarm(number)
    disk.client.arm(Fault(kind=Kind.EROFS))
    assert error_of(os.open, path, os.O_RDWR) == errno.EROFS
    assert error_of(path.unlink) == errno.EROFS
    assert path.read_bytes() == bytes(BLOCK)


def test_a_lost_write_is_reported_as_written_and_the_old_page_stays(disk: Mounted) -> None:
    path = relation(disk, "106", b"o" * BLOCK * 2)
    disk.client.arm(Fault(kind=Kind.LOST_WRITE, path="base/5/106", first_block=1, last_block=1, count=1))
    fd = os.open(path, os.O_RDWR)
    try:
        assert os.pwrite(fd, b"n" * BLOCK * 2, 0) == BLOCK * 2
        os.fsync(fd)
    finally:
        os.close(fd)
    assert path.read_bytes() == b"o" * BLOCK * 2


def test_a_misdirected_write_lands_in_another_block_or_another_file(disk: Mounted) -> None:
    path, victim = relation(disk, "107", b"o" * BLOCK * 3), relation(disk, "108", b"v" * BLOCK)
    fd = os.open(path, os.O_RDWR)
    try:
        disk.client.arm(Fault(kind=Kind.MISDIRECTED_WRITE, path="base/5/107", to_block=2, count=1))
        os.pwrite(fd, b"1" * BLOCK, 0)
        disk.client.arm(
            Fault(kind=Kind.MISDIRECTED_WRITE, path="base/5/107", to_block=0, to_path="base/5/108", count=1)
        )
        os.pwrite(fd, b"2" * BLOCK, 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    assert path.read_bytes() == b"o" * BLOCK * 2 + b"1" * BLOCK
    assert victim.read_bytes() == b"2" * BLOCK


def test_a_torn_write_keeps_the_end_of_the_old_page(disk: Mounted) -> None:
    path = relation(disk, "109", b"o" * BLOCK)
    disk.client.arm(Fault(kind=Kind.TORN_WRITE, path="base/5/109", seed=2, count=1))
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, b"n" * BLOCK, 0)
    finally:
        os.close(fd)
    torn = path.read_bytes()
    kept = torn.count(b"n")
    assert torn == b"n" * kept + b"o" * (BLOCK - kept)
    assert 0 < kept < BLOCK
    assert kept % 512 == 0


def test_a_stall_holds_one_file_up_and_the_others_go_on_until_it_is_healed(disk: Mounted) -> None:
    path, other = relation(disk, "110", bytes(BLOCK)), relation(disk, "111", bytes(BLOCK))
    number = disk.client.arm(Fault(kind=Kind.STALL, op=Op.READ, path="base/5/110"))
    done = threading.Event()

    def read() -> None:
        path.read_bytes()
        done.set()

    reader = threading.Thread(target=read)
    reader.start()
    until = time.monotonic() + 10
    while not disk.client.fired() or disk.client.fired()[-1]["path"] != "base/5/110":
        assert time.monotonic() < until
        time.sleep(0.01)
    assert other.read_bytes() == bytes(BLOCK)
    assert not done.is_set()
    disk.client.disarm(number)
    assert done.wait(10)
    reader.join(10)


def test_what_was_not_synced_is_gone_when_the_machine_loses_power(disk: Mounted) -> None:
    path = relation(disk, "112", b"o" * BLOCK * 2)
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, b"1" * BLOCK, 0)
    os.fsync(fd)
    os.pwrite(fd, b"2" * BLOCK, BLOCK)
    assert os.pread(fd, BLOCK, BLOCK) == b"2" * BLOCK
    os.close(fd)
    lost = disk.client.lose_unsynced()
    assert lost["blocks"] >= 1
    assert path.read_bytes() == b"1" * BLOCK + b"o" * BLOCK


def test_a_lost_rename_is_undone_when_the_machine_loses_power(disk: Mounted) -> None:
    old, new = relation(disk, "113", b"new"), relation(disk, "114", b"old")
    disk.client.arm(Fault(kind=Kind.LOST_RENAME, path="base/5/114"))
    old.rename(new)
    assert new.read_bytes() == b"new"
    assert disk.client.lose_unsynced()["renames"] == 1
    assert (old.read_bytes(), new.read_bytes()) == (b"new", b"old")


def test_an_fsync_that_fails_once_loses_the_data_and_then_lies(disk: Mounted) -> None:
    path = relation(disk, "115", b"o" * BLOCK)
    disk.client.arm(Fault(kind=Kind.FSYNC_LIES, path="base/5/115", count=1))
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, b"n" * BLOCK, 0)
        assert error_of(os.fsync, fd) == errno.EIO
        assert error_of(os.fsync, fd) is None
    finally:
        os.close(fd)
    assert path.read_bytes() == b"o" * BLOCK


def test_nonsense_is_refused_and_arms_nothing(disk: Mounted) -> None:
    for command in (
        {"do": "arm", "fault": {"kind": "fire"}},
        {"do": "arm"},
        {"do": "dance"},
        {"do": "disarm", "id": "x"},
    ):
        with pytest.raises(FaultFsRefused):
            disk.client.ask(command)
    assert disk.client.armed() == []


def test_with_the_kernels_cache_the_content_stays_while_the_disk_is_old(tmp_path: Path) -> None:
    """What fsync failures leave behind: PostgreSQL reads what it wrote, and the disk never gets it."""
    with mounted(tmp_path, cached=True) as disk:
        path = relation(disk, "200", b"o" * BLOCK)
        disk.client.arm(Fault(kind=Kind.FSYNC_LIES, path="base/5/200", count=1))
        fd = os.open(path, os.O_RDWR)
        try:
            os.pread(fd, BLOCK, 0)
            os.pwrite(fd, b"n" * BLOCK, 0)
            assert error_of(os.fsync, fd) == errno.EIO
            assert os.pread(fd, BLOCK, 0) == b"n" * BLOCK
        finally:
            os.close(fd)
        assert (disk.backing / "base/5/200").read_bytes() == b"o" * BLOCK


def test_when_its_process_dies_the_disk_is_gone_and_comes_back_without_faults(tmp_path: Path) -> None:
    with mounted(tmp_path) as disk:
        path = relation(disk, "300", b"o" * BLOCK)
        disk.client.arm(Fault(kind=Kind.EIO))
        disk.process.kill()
        disk.process.wait(10)
        assert error_of(path.read_bytes) == errno.ENOTCONN
        with pytest.raises(FaultFsAway):
            disk.client.armed()
    second = tmp_path / "second"
    second.mkdir()
    (tmp_path / "backing").rename(second / "kept")
    with mounted(second) as disk:
        assert disk.client.armed() == []
        (second / "kept/base").rename(disk.backing / "base")
        assert (disk.path / "base/5/300").read_bytes() == b"o" * BLOCK
