"""How far behind the WAL ledger and the chain check in it are while WAL is written as fast as bookings make it.

`python bench/ledger.py [--seconds 60] [--workers 2] [--json]`: on one `locum up` with a synchronous standby, $book by 64
connections until the time is over, then pgbench with the same function of the same schema, as in bench/booking.py. Every half
second each node is asked how much of its WAL it has not read yet. A ledger that keeps up is no further behind in the second half
than in the first, but for what one look more brings; printed besides are the worst moment, how long it takes to read the rest
afterwards, and how far the verification after checkpoints has come.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from a clone that is not installed

from bench.booking import Clinic, Run, filled, is_settled
from replication.installation import find_installation

_EVERY_S = 0.5
_CAUGHT_UP_S = 300.0


class Behind(msgspec.Struct, frozen=True):
    """One node's ledger during one stretch, in MB of WAL: the median of each half of it, the worst, and the most that a completed
    checkpoint had not been verified of."""

    first_half_mb: float
    second_half_mb: float
    worst_mb: float
    unverified_mb: float


class Stretch(msgspec.Struct, frozen=True):
    """One kind of load. `wal_mb_per_s` is what the primary wrote; `caught_up_s` until both ledgers were at the end of WAL."""

    what: str
    run: Run
    wal_mb_per_s: float
    behind: dict[str, Behind]
    caught_up_s: float


async def measure(seconds: float, workers: int) -> list[Stretch]:
    """Both kinds, one after the other."""
    installation = await asyncio.to_thread(find_installation, None)
    async with filled(workers) as clinic:
        await clinic.book(2.0)  # warm
        await clinic.cluster.wait_until(is_settled, _CAUGHT_UP_S)
        over_http = await _watched(clinic, "http", clinic.book(seconds))
        return [over_http, await _watched(clinic, "pgbench", clinic.pgbench(installation, seconds))]


async def _watched(clinic: Clinic, what: str, load: Awaitable[Run]) -> Stretch:
    from_lsn, from_s = await _written(clinic), time.monotonic()
    task, seen = asyncio.ensure_future(load), []
    try:
        while not task.done():
            seen.append((await clinic.cluster.view())["nodes"])
            await asyncio.wait([task], timeout=_EVERY_S)
    finally:
        task.cancel()
    run, took_s = await task, time.monotonic() - from_s
    wal_mb = (await _written(clinic) - from_lsn) / 1e6
    from_s = time.monotonic()
    last = await clinic.cluster.wait_until(is_settled, _CAUGHT_UP_S)
    caught_up_s = time.monotonic() - from_s
    behind = {name: _behind([nodes[name] for nodes in seen]) for name in last["nodes"]}
    return Stretch(what, run, wal_mb / took_s, behind, caught_up_s)


async def _written(clinic: Clinic) -> int:
    async with clinic.cluster.sql(clinic.primary) as connection:
        return int(await connection.fetchval("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"))


def _behind(nodes: list[dict[str, Any]]) -> Behind:
    lags = [node["ledger"]["lag_bytes"] / 1e6 for node in nodes if node["ledger"] is not None]
    half = len(lags) // 2
    unverified_mb = max(node["ledger"]["unverified_bytes"] for node in nodes if node["ledger"] is not None) / 1e6
    return Behind(median(lags[:half]), median(lags[half:]), max(lags), unverified_mb)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    said = parser.parse_args()
    console = Console(width=200, stderr=bool(said.json))
    found = asyncio.run(measure(said.seconds, said.workers))
    for stretch in found:
        console.print(
            f"{stretch.what}: {stretch.run.rate:.0f} bookings/s, {stretch.wal_mb_per_s:.1f} MB/s of WAL; "
            f"both ledgers at its end {stretch.caught_up_s:.1f} s after the load"
        )
        for name, behind in sorted(stretch.behind.items()):
            console.print(
                f"  {name}: behind by {behind.first_half_mb:.1f} MB in the first half, {behind.second_half_mb:.1f} MB in the "
                f"second, {behind.worst_mb:.1f} MB at worst; WAL before the last checkpoint not verified on the disk: at most "
                f"{behind.unverified_mb:.1f} MB"
            )
    if said.json:
        print(msgspec.json.encode(found).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
