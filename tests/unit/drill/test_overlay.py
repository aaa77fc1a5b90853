"""Unsynced data: what is read is what was written last, whatever came in between; what was not synced can be lost."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from failover.drill.faultfs.overlay import Overlay

KEY = (1, 1)
Step = tuple[str, int, int]
SIZE_MAX = 8192 * 4

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, SIZE_MAX), st.integers(1, 20_000)),
        st.tuples(st.just("truncate"), st.integers(0, SIZE_MAX), st.just(0)),
        st.tuples(st.just("sync"), st.just(0), st.just(0)),
    ),
    max_size=12,
)


@given(STEPS, st.integers(0, 255))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_reads_like_a_plain_file_and_ends_like_one(tmp_path: Path, steps: list[Step], salt: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    model = bytearray()
    overlay = Overlay()
    fd = os.open(path, os.O_RDWR)
    try:
        for number, (what, at, length) in enumerate(steps):
            if what == "write":
                data = bytes([(salt + number) % 256]) * length
                overlay.write(KEY, fd, data, at)
                model.extend(bytes(max(0, at + length - len(model))))
                model[at : at + length] = data
            elif what == "truncate":
                overlay.truncate(KEY, fd, at)
                model = model[:at] + bytes(max(0, at - len(model)))
            else:
                overlay.sync(KEY, fd, data_only=number % 2 == 0)
                assert path.read_bytes() == model
            assert overlay.read(KEY, fd, SIZE_MAX * 2, 0) == model
            assert overlay.read(KEY, fd, 5000, 7000) == model[7000:12000]
        overlay.write_all_back()
        assert overlay.dirty_bytes() == 0
        assert path.read_bytes() == model
    finally:
        overlay.forget(KEY)
        os.close(fd)


def test_what_was_synced_stays_when_the_rest_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "file"
    overlay = Overlay()
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    overlay.write(KEY, fd, b"a" * 8192, 0)
    overlay.sync(KEY, fd, data_only=True)
    overlay.write(KEY, fd, b"b" * 16384, 0)
    assert overlay.dirty_bytes() == 16384
    assert overlay.lose_everything() == (1, 2)
    assert overlay.read(KEY, fd, 16384, 0) == b"a" * 8192 + bytes(8192), "the length is there, the data is not"
    assert overlay.dirty_bytes() == 0
    overlay.forget(KEY)
    os.close(fd)


def test_a_file_that_is_forgotten_leaves_no_descriptor(tmp_path: Path) -> None:
    overlay = Overlay()
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    before = len(os.listdir("/proc/self/fd"))
    overlay.write(KEY, fd, b"x", 0)
    overlay.forget(KEY)
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(fd)
