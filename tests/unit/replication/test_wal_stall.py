"""WAL that does not reach the disk any more, told from a disk that is only slow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from replication.probes.wal_stall import WAL_STALLED_MS, WalStall
from replication.proc import is_running

Look = tuple[int, set[int], int | None]


def stalled_ms(*looks: Look) -> int:
    stall = WalStall()
    for now_ms, waiting, flushed in looks:
        stall.noted(now_ms, frozenset(waiting), flushed)
    return stall.stalled_ms


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([(0, {7}, 100), (1_000, {7}, 100), (4_000, {7}, 100)], 4_000),
        ([(0, {7, 8}, 100), (4_000, {8}, 100)], 4_000),
        ([(0, {7}, 100), (4_000, {8}, 100)], 0),  # another process: the first has come back
        ([(0, {7}, 100), (2_000, {7}, 101), (4_000, {7}, 101)], 2_000),  # it moves: slow is no fault
        ([(0, {7}, 100), (2_000, set(), 100), (4_000, {7}, 100)], 0),
        ([(0, set(), 100), (9_000, set(), 100)], 0),  # nobody books
        ([(0, {7}, None), (4_000, {7}, None)], 4_000),  # a standby that has received nothing yet
    ],
)
def test_somebody_waits_and_nothing_is_flushed(looks: list[Look], expected: int) -> None:
    assert stalled_ms(*looks) == expected


def test_a_second_of_waiting_is_none() -> None:
    assert stalled_ms((0, {7}, 100), (1_000, {7}, 100)) < WAL_STALLED_MS


def test_a_process_that_somebody_stopped_waits_for_nothing() -> None:
    """SIGSTOP leaves the wait event of the moment standing."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert is_running(child.pid)
        os.kill(child.pid, signal.SIGSTOP)
        until = time.monotonic() + 10
        while is_running(child.pid):
            assert time.monotonic() < until
            time.sleep(0.01)
        child.kill()
    assert not is_running(child.pid)
