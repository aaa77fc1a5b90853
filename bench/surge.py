"""Twenty times as many bookings as the database can take: who fits is served as fast as before, the others are told at once.

`python bench/surge.py [--seconds 60] [--times 20] [--workers 2] [--json]`: one `locum up` whose database is held to about 200 bookings a
second by a trigger that sleeps. First its peak is measured (256 connections, each the next request when the last was answered), then so
many times as many requests a second are begun, whether earlier ones were answered or not, then the peak again. Printed: goodput over the
peak, how late refusals came, the workers' memory, and how soon the peak was there again.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from a clone that is not installed

from bench.booking import http_load
from bench.surge_load import Told
from server.batch import BATCHES_MAX
from tests.acceptance import fhir
from tests.acceptance.cluster import Cluster, running

CAPACITY = 200
_ROOT = Path(__file__).resolve().parent.parent
_HELD = """
CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep($1); RETURN NEW; END $$;
CREATE TRIGGER held BEFORE INSERT ON appointment FOR EACH ROW EXECUTE FUNCTION held();
"""
_PEOPLE, _SLOTS_EACH = 400, 400
_FILL = """
INSERT INTO location SELECT 'surge-' || i, 'Room ' || i, 'site-north' FROM generate_series(1, :people) i;
INSERT INTO practitioner SELECT 'surge-' || i, 'S', 'N', '394814009', 'General practice', 'surge-' || i FROM generate_series(1, :people) i;
INSERT INTO slot (id, practitioner_id, location_id, starts_at, ends_at)
SELECT md5(i || ' ' || j)::uuid, 'surge-' || i, 'surge-' || i, t, t + interval '15 minutes'
FROM generate_series(1, :people) i, generate_series(1, :slots) j,
     LATERAL (SELECT date_trunc('day', now()) + interval '40 days' + j * interval '15 minutes' AS t) AS m;
INSERT INTO patient SELECT 'of-' || id FROM slot WHERE practitioner_id LIKE 'surge-%';
ANALYZE;
"""
_REFUSED_S, _PEAK_S, _AGAIN_S = 0.2, 6.0, 2.0
_PEAK_CONNECTIONS = 256


class Found(msgspec.Struct, frozen=True):
    """Rates in bookings a second, times in ms, memory in MB."""

    peak: float
    goodput: float
    offered: float
    refused: int
    refused_late: int
    """After more than 200 ms."""
    refused_p50_ms: float
    refused_p99_ms: float
    refused_max_ms: float
    booked_p99_ms: float
    statuses: dict[str, int]
    memory_before_mb: float
    memory_max_mb: float
    peak_again: float


async def measure(seconds: float, times: int, workers: int, console: Console) -> Found:
    """One surge."""
    with tempfile.TemporaryDirectory(prefix="locum-bench-") as name:
        place = Path(name)
        await asyncio.to_thread(place.chmod, 0o755)  # PostgreSQL runs as another account when this is run by root
        async with running(place, "--demo-practitioners", "10", "--workers", str(workers)) as cluster:
            lines = await _prepare(cluster, workers)
            # Each worker has batches under way at once: together they are to book CAPACITY a second.
            peak = await http_load(cluster, _take(lines, 4 * CAPACITY * int(_PEAK_S)), _PEAK_S, _PEAK_CONNECTIONS)
            console.print(f"peak: {peak.rate:.0f}/s")
            before = _memory_mb(cluster)
            watching = asyncio.create_task(_watch(cluster))
            told = await _surge(
                cluster, _take(lines, len(lines) - 8 * CAPACITY * int(_PEAK_S)), times * peak.rate, seconds
            )
            watching.cancel()
            most = max(await watching)
            await asyncio.sleep(_AGAIN_S)
            again = await http_load(cluster, _take(lines, 4 * CAPACITY * int(_PEAK_S)), _PEAK_S, _PEAK_CONNECTIONS)
    refused = sorted(one.took_s for one in told if one.status == 503)
    booked = sorted(one.took_s for one in told if one.status == 201)
    return Found(
        peak=peak.rate,
        goodput=len(booked) / seconds,
        offered=len(told) / seconds,
        refused=len(refused),
        refused_late=sum(took_s > _REFUSED_S for took_s in refused),
        refused_p50_ms=1000 * refused[len(refused) // 2],
        refused_p99_ms=1000 * refused[len(refused) * 99 // 100],
        refused_max_ms=1000 * refused[-1],
        booked_p99_ms=1000 * booked[len(booked) * 99 // 100],
        statuses=dict(Counter(str(one.status) for one in told)),
        memory_before_mb=before,
        memory_max_mb=most,
        peak_again=again.rate,
    )


async def _prepare(cluster: Cluster, workers: int) -> list[bytes]:
    """Requests for times of their own, each of another patient who is known (one patient's wait for each other). The database is
    slow from here on."""
    primary = (await cluster.view())["primary"]
    async with cluster.sql(primary) as connection:
        await connection.execute(_FILL.replace(":people", str(_PEOPLE)).replace(":slots", str(_SLOTS_EACH)))
        rows = await connection.fetch(
            "SELECT id, practitioner_id FROM slot WHERE practitioner_id LIKE 'surge-%' ORDER BY starts_at, 2"
        )
        await connection.execute(_HELD.replace("$1", str(workers * BATCHES_MAX / CAPACITY)))
    return [
        msgspec.json.encode(
            {
                "path": "/fhir/Appointment/$book",
                "body": fhir.book_body(f"prop-{row['id']}", f"of-{row['id']}"),
            }
        )
        for row in rows
    ]


def _take(lines: list[bytes], count: int) -> bytes:
    """The next so many, each with a key of its own."""
    taken = lines[:count]
    del lines[:count]
    keyed = [line[:-1] + f',"headers":{{"Idempotency-Key":"{uuid.uuid4()}"}}}}'.encode() for line in taken]
    return b"\n".join(keyed)


async def _surge(cluster: Cluster, lines: bytes, rate: float, seconds: float) -> list[Told]:
    at = urlsplit(cluster.ready.server)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.surge_load", str(at.hostname), str(at.port), str(rate), str(seconds)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_ROOT,
    )
    async with asyncio.timeout(seconds + 120):
        output, _ = await process.communicate(lines)
    assert process.returncode == 0, len(output)
    return msgspec.msgpack.decode(output, type=list[Told])


async def _watch(cluster: Cluster) -> list[float]:
    seen = [_memory_mb(cluster)]
    try:
        while True:
            await asyncio.sleep(0.5)
            seen.append(_memory_mb(cluster))
    except asyncio.CancelledError:
        return seen


def _memory_mb(cluster: Cluster) -> float:
    """Resident, of the workers together."""
    pids: dict[str, Any] = msgspec.json.decode(cluster.layout.pids.read_bytes())
    servers = [int(said["pid"]) for name, said in pids.items() if name.startswith("server")]
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in servers) * 4096 / 1_000_000


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    said = parser.parse_args()
    console = Console(width=200, stderr=bool(said.json))
    began_s = time.monotonic()
    found = asyncio.run(measure(said.seconds, said.times, said.workers, console))
    console.print(
        f"{found.offered:.0f} requests/s for {said.seconds:g} s: {found.goodput:.0f} bookings/s against a peak of {found.peak:.0f},"
        f" ratio {found.goodput / found.peak:.2f} (at least 0.80); statuses {found.statuses}"
    )
    console.print(
        f"{found.refused} refusals: p50 {found.refused_p50_ms:.0f} ms, p99 {found.refused_p99_ms:.0f} ms, the latest"
        f" {found.refused_max_ms:.0f} ms, {found.refused_late} later than {1000 * _REFUSED_S:.0f} ms (none);"
        f" bookings p99 {found.booked_p99_ms:.0f} ms"
    )
    console.print(
        f"memory of the workers {found.memory_before_mb:.0f} MB before, at most {found.memory_max_mb:.0f} MB;"
        f" {_AGAIN_S:g} s afterwards {found.peak_again:.0f} bookings/s, ratio {found.peak_again / found.peak:.2f};"
        f" took {time.monotonic() - began_s:.0f} s"
    )
    if said.json:
        print(msgspec.json.encode(found).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
