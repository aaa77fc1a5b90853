"""A block that never comes, told from a process that reads many."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from replication.probes.data_stall import DATA_STALLED_MS, WAITS, DataStall
from replication.proc import sleeps

Look = tuple[int, dict[int, tuple[str, int | None]]]
"""When; of each process that waits, for what, and how often it has gone to sleep."""


def stall(*looks: Look) -> DataStall:
    counts: dict[int, int | None] = {}
    found = DataStall(counts.get)
    for now_ms, waits in looks:
        counts.update({pid: count for pid, (_, count) in waits.items()})
        found.noted(now_ms, {pid: event for pid, (event, _) in waits.items()})
    return found


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        (
            [(0, {7: ("datafilewrite", 5)}), (1_000, {7: ("datafilewrite", 5)}), (4_000, {7: ("datafilewrite", 5)})],
            4_000,
        ),
        (
            [(0, {7: ("datafileread", 5)}), (4_000, {7: ("datafileread", 6)})],
            0,
        ),  # another block: it reads a whole table
        ([(0, {7: ("datafileread", 5)}), (4_000, {8: ("datafileread", 5)})], 0),  # another process
        ([(0, {7: ("datafileread", 5)}), (4_000, {7: ("datafileextend", 5)})], 0),  # it goes on without a sleep
        ([(0, {7: ("datafileread", 5)}), (2_000, {}), (4_000, {7: ("datafileread", 5)})], 0),
        (
            [(0, {7: ("datafileread", None)}), (4_000, {7: ("datafileread", None)})],
            0,
        ),  # gone, stopped, or waiting for a processor
        (
            [
                (0, {7: ("slruread", 5)}),
                (500, {7: ("slruread", 5), 8: ("datafileread", 9)}),
                (900, {7: ("slruread", 5)}),
            ],
            900,
        ),
    ],
)
def test_one_that_sleeps_on_in_the_same_wait_waits_for_the_same_block(looks: list[Look], expected: int) -> None:
    assert stall(*looks).stalled_ms == expected


def test_what_the_longest_waits_for_is_told() -> None:
    found = stall((0, {7: ("datafilewrite", 5)}), (9_000, {7: ("datafilewrite", 5), 8: ("datafileread", 1)}))
    assert (found.event, found.stalled_ms) == ("datafilewrite", 9_000)
    assert found.stalled_ms >= DATA_STALLED_MS


def test_an_fsync_is_no_block() -> None:
    assert not [event for event in WAITS if "sync" in event or "flush" in event]


def test_a_process_that_waits_sleeps_once_and_one_that_is_stopped_is_not_counted() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        until = time.monotonic() + 10
        before, now = None, sleeps(child.pid)
        while before is None or before != now:
            assert time.monotonic() < until
            time.sleep(0.2)
            before, now = now, sleeps(child.pid)
        os.kill(child.pid, signal.SIGSTOP)
        while sleeps(child.pid) is not None:
            assert time.monotonic() < until
            time.sleep(0.01)
        child.kill()
    assert sleeps(child.pid) is None
    assert sleeps(os.getpid()) is None, "whoever asks runs"
