"""How long bookings stop when the primary fails, against what PostgreSQL alone needs in the same run.

`python bench/outage.py [--runs 5] [--rate 100] [--disk] [--json]`: rounds of the floor (bench/floor.py), then the gap between two
acknowledged bookings over HTTP for each fault, on one `locum up` a round. Exit code 1 when a booking was lost, doubled, wrong
or refused. With --json the last line is one JSON object; `ratio` is the worse of the two kills: median gap over floor.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import msgspec
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from a clone that is not installed

from bench.disk_faults import DISK_FAULTS, floor_on_faultfs
from bench.floor import measure_floor
from replication.installation import find_installation
from replication.model import WAL_SEGMENT_MB
from tests.acceptance import fhir
from tests.acceptance.checker import Findings, check
from tests.acceptance.cluster import Cluster, running
from tests.acceptance.faults import FAULTS, KILL_BOTH, KILL_PRIMARY, Fault
from tests.acceptance.workload import History, Workload

_WARM_UP_BOOKINGS = 200
_AFTERWARDS_S = 2.0
_FLOORS_A_ROUND = 3
"""Of several, since it has two modes (bench/floor.py), and the median of a few falls between them."""


class Run(msgspec.Struct, frozen=True):
    """One fault, once."""

    fault: str
    gap_ms: float
    slowest_ms: float
    sent: int
    failed: int
    failures: tuple[str, ...]
    """What the first few failed requests were told."""
    findings: Findings
    verdict: str | None
    healthy_again_s: float


class Floors(msgspec.Struct, frozen=True):
    """What PostgreSQL alone needs, in ms: with its own WAL segments, which is the reference, and with Locum's."""

    stock: list[float]
    small: list[float]
    faulty: list[float] = []
    """On file systems of ours, for the rows in which a disk fails."""


async def measure(runs: int, rate: float, console: Console, *, disk: bool = False) -> tuple[Floors, list[Run]]:
    """`runs` rounds, each with the floors and then every fault: the machine's speed changes in the course of minutes."""
    installation = await asyncio.to_thread(find_installation, None)
    floors, results = Floors([], []), []
    with _kept_on_failure() as place:
        for number in range(runs):
            round_ = Path(place) / str(number)
            for again in range(_FLOORS_A_ROUND):
                floors.stock.append(await measure_floor(installation, round_ / f"stock{again}"))
                console.print(f"floor: {floors.stock[-1]:.0f} ms")
            floors.small.append(await measure_floor(installation, round_ / "small", segment_mb=WAL_SEGMENT_MB))
            results += await _measure_round(round_ / "locum", rate, console, FAULTS)
            if disk:
                floors.faulty.append(await floor_on_faultfs(installation, round_ / "faulty"))
                console.print(f"floor on faultfs: {floors.faulty[-1]:.0f} ms")
                results += await _measure_round(round_ / "disks", rate, console, DISK_FAULTS, "--faultfs")
    return floors, results


async def _measure_round(
    place: Path, rate: float, console: Console, faults: tuple[Fault, ...], *flags: str
) -> list[Run]:
    results = []
    await asyncio.to_thread(place.mkdir)
    async with running(place, "--demo-practitioners", "20", *flags) as cluster:
        proposals = await fhir.endless(cluster.session, cluster.ready.server)
        for fault in faults:
            results.append(await _measure_fault(cluster, fault, proposals, rate))
            console.print(f"{fault.name}: {results[-1].gap_ms:.0f} ms")
    return results


@contextmanager
def _kept_on_failure() -> Iterator[str]:
    """A place for data and logs that stays when the block fails."""
    place = tempfile.mkdtemp(prefix="locum-bench-")
    try:
        yield place
    except BaseException:
        print(f"data and logs are kept in {place}", file=sys.stderr)
        raise
    shutil.rmtree(place, ignore_errors=True)


async def _measure_fault(cluster: Cluster, fault: Fault, proposals: fhir.Proposals, rate: float) -> Run:
    primary = (await cluster.wait_healthy())["primary"]
    incidents_before = len(await cluster.incidents())
    async with Workload(cluster.ready.server, proposals, rate=rate) as workload:
        await workload.until_acknowledged(_WARM_UP_BOOKINGS)
        began = await fault.inject(cluster, primary)
        await workload.until_acknowledged(_WARM_UP_BOOKINGS)  # nobody polls the controller while the clock runs
        await cluster.wait_until(lambda view: view["primary"] not in (None, primary))
        if fault.heal is not None:
            await fault.heal(cluster, primary)
        await asyncio.sleep(_AFTERWARDS_S)  # so that a second gap soon after the first one is seen as well
        history = await workload.stop()
    await cluster.wait_healthy()
    healthy_again_s = time.monotonic() - began
    return await _judge(cluster, fault, history, began, healthy_again_s, incidents_before)


async def _judge(
    cluster: Cluster, fault: Fault, history: History, began: float, healthy_again_s: float, incidents_before: int
) -> Run:
    view = await cluster.view()
    async with cluster.sql(view["primary"]) as connection:
        findings = await check(connection, history)
    failures = tuple(f"{item.status} {item.error}" for item in history.failed[:5])
    if failures:
        failures = (*failures, cluster.tell_errors())
    incidents = (await cluster.incidents())[incidents_before:]
    verdicts = [incident["verdict"]["kind"] for incident in incidents if incident.get("verdict")]
    return Run(
        fault=fault.name,
        gap_ms=history.gap_ms(began),
        slowest_ms=history.slowest_ms(),
        sent=len(history.bookings),
        failed=len(history.failed),
        failures=failures,
        findings=findings,
        verdict=verdicts[0] if verdicts else None,
        healthy_again_s=healthy_again_s,
    )


def show(floors: Floors, runs: list[Run], console: Console) -> None:
    """The table for a person."""
    kinds = [("floor", floors.stock), ("on faultfs", floors.faulty)] if floors.faulty else [("floor", floors.stock)]
    for what, values in (*kinds, (f"with WAL segments of {WAL_SEGMENT_MB} MB", floors.small)):
        console.print(f"{what}: median {median(values):.0f} ms of {', '.join(f'{ms:.0f}' for ms in sorted(values))}")
    table = Table(box=None, pad_edge=False)
    columns = ("fault", "gap ms (median, all)", "ratio", "slowest ms", "sent", "failed", "lost", "doubled", "wrong")
    for column in (*columns, "verdict", "healthy again s"):
        table.add_column(column)
    for fault in _measured(runs):
        floor = _floor_of(floors, fault)
        own = [run for run in runs if run.fault == fault.name]
        gaps = sorted(run.gap_ms for run in own)
        table.add_row(
            fault.name,
            f"{median(gaps):.0f} ({', '.join(f'{gap:.0f}' for gap in gaps)})",
            f"{median(gaps) / floor:.2f}",
            f"{max(run.slowest_ms for run in own):.0f}",
            *(str(total) for total in _totals(own)),
            ", ".join(sorted({str(run.verdict or "none, planned") for run in own})),
            f"{median(run.healthy_again_s for run in own):.1f}",
        )
    console.print(table)
    for run in runs:
        for failure in run.failures:
            console.print(f"failed during {run.fault}: {failure}", style="red", markup=False)


def summary(floors: Floors, runs: list[Run]) -> dict[str, object]:
    """What --json prints."""
    gaps = {fault.name: [run.gap_ms for run in runs if run.fault == fault.name] for fault in _measured(runs)}
    ratios = {fault.name: median(gaps[fault.name]) / _floor_of(floors, fault) for fault in _measured(runs)}
    return {
        "ratio": round(max(ratios[fault.name] for fault in (KILL_PRIMARY, KILL_BOTH)), 3),
        "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "floor_ms": floors.stock,
        "floor_small_segments_ms": floors.small,
        "floor_on_faultfs_ms": floors.faulty,
        "gap_ms": gaps,
        **dict(zip(("sent", "failed", "lost", "double_booked", "wrong_content"), _totals(runs), strict=True)),
        "runs": msgspec.to_builtins(runs),
    }


def _measured(runs: list[Run]) -> list[Fault]:
    names = {run.fault for run in runs}
    return [fault for fault in (*FAULTS, *DISK_FAULTS) if fault.name in names]


def _floor_of(floors: Floors, fault: Fault) -> float:
    """A disk in Python is slower: its rows are compared with a floor on such disks."""
    return median(floors.faulty if fault in DISK_FAULTS else floors.stock)


def _totals(runs: list[Run]) -> tuple[int, int, int, int, int]:
    return (
        sum(run.sent for run in runs),
        sum(run.failed for run in runs),
        sum(len(run.findings.lost) for run in runs),
        sum(len(run.findings.doubled) for run in runs),
        sum(len(run.findings.wrong) for run in runs),
    )


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=100.0, help="bookings a second")
    parser.add_argument("--disk", action="store_true", help="also the rows in which a disk fails (needs FUSE)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    said = parser.parse_args()
    console = Console(width=200, stderr=bool(said.json))
    floors, runs = asyncio.run(measure(said.runs, said.rate, console, disk=said.disk))
    show(floors, runs, console)
    if said.json:
        print(msgspec.json.encode(summary(floors, runs)).decode())
    _sent, *bad = _totals(runs)
    return 1 if any(bad) else 0


if __name__ == "__main__":
    sys.exit(main())
