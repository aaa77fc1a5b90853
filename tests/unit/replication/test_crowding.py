"""Silence on a crowded machine counts later, and only there."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from replication.crowding import TIMES, Crowding, pressure_s
from replication.memory import SqlMemory, clock_ms
from replication.model import DataDirectory, FaultKind, Probe
from replication.probes.disk import DiskProbe


class Machine:
    """A clock, and how much of the time somebody waits for a processor."""

    def __init__(self, share: float | None) -> None:
        self.now_s = 100.0
        self.share = share

    def crowding(self) -> Crowding:
        return Crowding(lambda: None if self.share is None else self.now_s * self.share, lambda: self.now_s)


@pytest.mark.parametrize(("share", "times"), [(None, 1), (0.0, 1), (0.4, 1), (0.7, TIMES), (1.0, TIMES)])
def test_only_a_crowded_time_excuses(share: float | None, times: int) -> None:
    machine = Machine(share)
    crowding = machine.crowding()
    mark = crowding.mark()
    assert crowding.times(mark) == 1, "no time has passed"
    machine.now_s += 1
    assert crowding.times(mark) == times


@pytest.mark.parametrize(("share", "late_ms"), [(0.0, 750), (1.0, 750 * TIMES)])
def test_a_probe_that_does_not_return_is_a_fault_after_its_time_and_not_before(share: float, late_ms: int) -> None:
    machine = Machine(share)
    memory = SqlMemory(machine.crowding())
    memory.begin()
    began_ms = memory.began_ms or clock_ms()
    machine.now_s += 1
    probe = memory.report(began_ms + late_ms, 750)
    assert probe is None or probe.ok, "in time"
    probe = memory.report(began_ms + late_ms + 1, 750)
    assert probe is not None
    assert probe.fault is FaultKind.UNRESPONSIVE


def test_a_disk_that_hangs_on_a_crowded_machine_is_still_found(tmp_path: Path) -> None:
    machine, release = Machine(1.0), threading.Event()
    probe = DiskProbe(lambda: [tmp_path], lambda: wait(release), 20, machine.crowding())
    try:
        assert probe.start(lambda _result: None)
        machine.now_s += 1
        told = [found for _ in range(200) if (found := pause(probe)) is not None]
    finally:
        release.set()
    assert told[0].fault is FaultKind.STORAGE_STALLED
    assert (told[0].running_ms or 0) > 20 * TIMES


def pause(probe: DiskProbe) -> Probe | None:
    threading.Event().wait(0.001)
    return probe.report()


def wait(release: threading.Event) -> DataDirectory:
    release.wait(10)
    return DataDirectory.PRESENT


def test_what_the_kernel_says(tmp_path: Path) -> None:
    path = tmp_path / "cpu"
    path.write_text("some avg10=1.00 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0.00 total=7\n")
    assert pressure_s(path) == 2.5
    path.write_text("nothing\n")
    assert pressure_s(path) is None
    assert pressure_s(tmp_path / "none") is None


async def test_a_reader_of_the_real_pressure_costs_nothing() -> None:
    crowding = Crowding()
    mark = crowding.mark()
    await asyncio.sleep(0.01)
    assert crowding.times(mark) in (1, TIMES)
