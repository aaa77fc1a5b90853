"""A disk that gives back what it was given passes, and leaves nothing behind; another one does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from replication import self_test as tested
from replication.page_size import PAGE_BYTES
from replication.self_test import SelfTestFailed, self_test


def test_a_good_disk_passes_and_nothing_is_left(tmp_path: Path) -> None:
    assert self_test([tmp_path], 4, seed=1) == 6 * 1024 * 1024
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_loses_the_second_write_of_a_page_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    real = os.pwrite

    def forgetful(descriptor: int, data: bytes, offset: int) -> int:
        if offset in seen and offset == 5 * PAGE_BYTES:
            return len(data)
        seen.add(offset)
        return real(descriptor, data, offset)

    monkeypatch.setattr(tested.os, "pwrite", forgetful)
    with pytest.raises(SelfTestFailed, match="overwritten in part"):
        self_test([tmp_path], 2, seed=1)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_puts_a_page_elsewhere_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def astray(descriptor: int, data: bytes, offset: int) -> int:
        return real(descriptor, data, 9 * PAGE_BYTES if offset == 5 * PAGE_BYTES else offset)

    monkeypatch.setattr(tested.os, "pwrite", astray)
    with pytest.raises(SelfTestFailed, match="written"):
        self_test([tmp_path], 2, seed=1)
