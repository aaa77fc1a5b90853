"""Timelines, segment names and hashes of WAL ranges, on files of the test's own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from replication.errors import WalUnavailable
from replication.history import Timeline, newest_timeline, parse_history, read_timeline
from replication.model import WAL_SEGMENT_BYTES
from replication.wal_end import record_end
from replication.wal_files import contiguous_end, hash_range, segment_name

FORK = WAL_SEGMENT_BYTES + 4096


def write(pg_wal: Path, timeline: int, number: int, byte: bytes, size: int = WAL_SEGMENT_BYTES) -> None:
    (pg_wal / segment_name(timeline, number)).write_bytes(byte * size)


def test_names_are_those_of_postgresql() -> None:
    assert segment_name(1, 3) == "000000010000000000000003"
    assert segment_name(2, 0x1000) == "000000020000000100000000"


def test_a_history_tells_which_timeline_a_position_belongs_to() -> None:
    history = parse_history(3, "1\t0/2000000\tno recovery target\n\n2\t0/3000000\tx\n")
    assert history == Timeline(3, ((1, 0x2000000), (2, 0x3000000)))
    assert [history.at(lsn) for lsn in (0, 0x1FFFFFF, 0x2000000, 0x3000000)] == [1, 1, 2, 3]
    assert history.contains(1, 0x2000000)
    assert not history.contains(1, 0x2000001)
    assert not history.contains(4, 0)
    with pytest.raises(ValueError, match="not in order"):
        parse_history(3, "2\t0/3000000\tx\n1\t0/2000000\tx\n")


def test_a_range_hashes_the_bytes_across_segments_and_a_fork(tmp_path: Path) -> None:
    write(tmp_path, 1, 0, b"a")
    write(tmp_path, 2, 1, b"b")
    history = Timeline(2, ((1, FORK),))
    expected = hashlib.sha256(b"a" * 100 + b"b" * 50).hexdigest()
    assert hash_range(tmp_path, history, WAL_SEGMENT_BYTES - 100, WAL_SEGMENT_BYTES + 50) == expected


def test_a_missing_or_short_segment_is_no_hash(tmp_path: Path) -> None:
    write(tmp_path, 1, 0, b"a")
    write(tmp_path, 1, 1, b"b", 1000)
    with pytest.raises(WalUnavailable, match="too short"):
        hash_range(tmp_path, Timeline(1), 0, WAL_SEGMENT_BYTES + 2000)
    with pytest.raises(WalUnavailable):
        hash_range(tmp_path, Timeline(1), 0, 3 * WAL_SEGMENT_BYTES)
    assert contiguous_end(tmp_path, Timeline(1), 100) == WAL_SEGMENT_BYTES


def test_a_killed_node_that_was_promoted_is_read_on_its_new_timeline(tmp_path: Path) -> None:
    write(tmp_path, 1, 0, b"a")
    assert newest_timeline(tmp_path, 1, 100) == Timeline(1)
    (tmp_path / "00000002.history").write_text(f"1\t0/{FORK:X}\tx\n", encoding="utf-8")
    assert newest_timeline(tmp_path, 1, 100) == Timeline(1)
    write(tmp_path, 2, 1, b"b")
    assert newest_timeline(tmp_path, 1, 100) == Timeline(2, ((1, FORK),))
    assert read_timeline(tmp_path, 2) == Timeline(2, ((1, FORK),))


def test_a_record_ends_behind_the_page_headers_that_it_crosses() -> None:
    assert record_end(0x1000028, 30, "Heap INSERT") == 0x1000048
    assert record_end(0x1001FF0, 32, "Heap INSERT") == 0x1002000 + 24 + 16
    assert record_end(0x1FFFFF0, 32, "Heap INSERT") == 0x2000000 + 40 + 16
    assert record_end(0x1000028, 24, "XLOG SWITCH") == 0x1100000


def test_wal_before_a_fork_is_read_from_the_copy_behind_it_and_wal_past_the_fork_is_not(tmp_path: Path) -> None:
    history = Timeline(2, ((1, FORK),))
    write(tmp_path, 2, 1, b"b")
    assert history.for_range(1, FORK) is history
    assert history.for_range(1, FORK + 1) == Timeline(1)
    with pytest.raises(ValueError, match="no ancestor"):
        history.for_range(3, FORK)
    expected = hashlib.sha256(b"b" * 4096).hexdigest()
    assert hash_range(tmp_path, history.for_range(1, FORK), WAL_SEGMENT_BYTES, FORK) == expected
    with pytest.raises(WalUnavailable):
        hash_range(tmp_path, history.for_range(1, FORK + 1), WAL_SEGMENT_BYTES, FORK + 1)


def test_a_range_that_crosses_a_fork_is_never_read_from_the_older_file(tmp_path: Path) -> None:
    write(tmp_path, 1, 1, b"a")
    history = Timeline(2, ((1, FORK),))
    assert hash_range(tmp_path, history, FORK - 10, FORK) == hashlib.sha256(b"a" * 10).hexdigest()
    with pytest.raises(WalUnavailable):
        hash_range(tmp_path, history, FORK - 10, FORK + 10)
