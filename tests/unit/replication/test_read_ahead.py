"""Pages that are read before they are asked for are the pages that are asked for."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from replication.page_size import PAGE_BYTES
from replication.scrub.read_ahead import ReadAhead

ROOM = 4


def page(number: int) -> bytes:
    return number.to_bytes(4, "big") * (PAGE_BYTES // 4)


def file_of(path: Path, pages: int) -> int:
    path.write_bytes(b"".join(page(number) for number in range(pages)))
    return os.open(path, os.O_RDONLY)


def numbers(view: memoryview) -> list[int]:
    data = bytes(view)
    assert all(
        data[at : at + PAGE_BYTES] == data[at : at + 4] * (PAGE_BYTES // 4) for at in range(0, len(data), PAGE_BYTES)
    )
    return [int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data), PAGE_BYTES)]


def test_each_page_comes_once_and_in_its_place(tmp_path: Path) -> None:
    descriptor, ahead = file_of(tmp_path / "a", 10), ReadAhead(ROOM, PAGE_BYTES)
    seen = [numbers(ahead.take(descriptor, first, ROOM, 10)) for first in (0, 4, 8)]
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    os.close(descriptor)


def test_whoever_goes_elsewhere_gets_what_he_asked_for(tmp_path: Path) -> None:
    descriptor, ahead = file_of(tmp_path / "a", 40), ReadAhead(ROOM, PAGE_BYTES)
    ahead.take(descriptor, 0, ROOM, 40)
    assert numbers(ahead.take(descriptor, 20, ROOM, 40)) == [20, 21, 22, 23]
    ahead.forget()
    other = file_of(tmp_path / "b", 3)
    os.close(descriptor)
    assert numbers(ahead.take(other, 0, ROOM, 3)) == [0, 1, 2]
    os.close(other)


def test_what_is_given_stays_while_the_next_is_read(tmp_path: Path) -> None:
    descriptor, ahead = file_of(tmp_path / "a", 40), ReadAhead(ROOM, PAGE_BYTES)
    for first in range(0, 40, ROOM):
        view = ahead.take(descriptor, first, ROOM, 40)
        for thread in [one for one in threading.enumerate() if one.name == "read-ahead"]:
            thread.join(5)
        assert numbers(view)[0] == first
    os.close(descriptor)


def test_a_disk_that_refuses_is_told_where_it_refused(tmp_path: Path) -> None:
    descriptor, ahead = os.open(tmp_path, os.O_RDONLY), ReadAhead(ROOM, PAGE_BYTES)
    with pytest.raises(IsADirectoryError):
        ahead.take(descriptor, 0, ROOM, 10)
    with pytest.raises(IsADirectoryError):
        ahead.take(descriptor, 4, ROOM, 10)
    os.close(descriptor)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        ahead.take(descriptor, 0, ROOM, 10)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_system_without_descriptors_or_threads_is_no_broken_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    descriptor, ahead = file_of(tmp_path / "a", 12), ReadAhead(ROOM, PAGE_BYTES)
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        assert numbers(ahead.take(descriptor, 0, ROOM, 12)) == [0, 1, 2, 3]
    assert len(os.listdir("/proc/self/fd")) == before
    with monkeypatch.context() as patched:
        patched.setattr(os, "dup", refused)
        assert numbers(ahead.take(descriptor, 4, ROOM, 12)) == [4, 5, 6, 7]
    assert numbers(ahead.take(descriptor, 8, ROOM, 12)) == [8, 9, 10, 11]
    os.close(descriptor)
