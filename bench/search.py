"""Whether finding a free time stays as fast when there are many more of them.

`python bench/search.py [--sizes 100000,1000000,10000000] [--seconds 5] [--json]`: `$find` for 10 practitioners over 14 days, always the
same question, by 16 connections, while the table of slots grows to each size (loaded by COPY, of other practitioners and days). `ratio`
is the 99th percentile at the largest size over that at the smallest.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from a clone that is not installed

from bench.booking import Run, http_load, is_settled
from tests.acceptance import fhir
from tests.acceptance.cluster import Cluster, running

CONNECTIONS = 16
_OTHERS = 2_000
_AT_ONCE = 50_000
_SETTLED_S = 1_200.0
_COLUMNS = ("id", "practitioner_id", "location_id", "starts_at", "ends_at")
_PEOPLE = """
INSERT INTO location SELECT 'other-' || i, 'Other room ' || i, 'site-north' FROM generate_series(1, $1::int) i;
"""
_STAFF = """
INSERT INTO practitioner SELECT 'other-' || i, 'O', 'P', '394814009', 'General practice', 'other-' || i FROM generate_series(1, $1::int) i
"""


async def measure(sizes: list[int], seconds: float, console: Console) -> dict[int, Run]:
    """The question's speed at each size."""
    found: dict[int, Run] = {}
    with tempfile.TemporaryDirectory(prefix="locum-bench-") as name:
        place = Path(name)
        await asyncio.to_thread(place.chmod, 0o755)  # PostgreSQL runs as another account when this is run by root
        async with running(place, "--demo-practitioners", "10") as cluster:
            primary = (await cluster.view())["primary"]
            line = msgspec.json.encode({"path": "/fhir/Appointment/$find", "body": await _question(cluster)})
            async with cluster.sql(primary) as connection:
                await connection.execute(_PEOPLE.replace("$1::int", str(_OTHERS)))
                await connection.execute(_STAFF, _OTHERS)
                have = int(await connection.fetchval("SELECT count(*) FROM slot"))
                for size in sorted(sizes):
                    for first in range(have, size, _AT_ONCE):
                        rows = _slots(first, min(size, first + _AT_ONCE))
                        await connection.copy_records_to_table("slot", records=rows, columns=_COLUMNS)
                    have = max(have, size)
                    await connection.execute("ANALYZE slot")
                    await connection.execute("CHECKPOINT")
                    await cluster.wait_until(is_settled, _SETTLED_S)  # the search is measured, not the loading
                    summary = await http_load(cluster, b"\n".join([line] * int(seconds * 3_000)), seconds, CONNECTIONS)
                    assert set(summary.statuses) == {"200"}, summary.statuses
                    found[size] = Run(summary.rate, summary.p50_ms, summary.p99_ms)
                    console.print(f"{size:>10} slots: {found[size]}")
    return found


def _slots(first: int, end: int) -> Iterator[tuple[object, ...]]:
    """Times of others: the days of the question and long after it."""
    midnight = datetime.datetime.now(datetime.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for number in range(first, end):
        who = f"other-{number % _OTHERS + 1}"
        start = midnight + datetime.timedelta(minutes=15 * (number // _OTHERS))
        yield uuid.uuid4(), who, who, start, start + datetime.timedelta(minutes=15)


async def _question(cluster: Cluster) -> fhir.Json:
    people = await fhir.find_days(cluster.session, cluster.ready.server, range(1, 2))
    who = sorted({proposal.practitioner for proposal in people})
    start = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(hours=1)
    return fhir.parameters(
        {"name": "start", "valueDateTime": start.isoformat()},
        {"name": "end", "valueDateTime": (start + datetime.timedelta(days=13)).isoformat()},
        {"name": "_count", "valueInteger": 50},
        *({"name": "practitioner", "valueReference": {"reference": f"Practitioner/{name}"}} for name in who),
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", default="100000,1000000,10000000")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    said = parser.parse_args()
    console = Console(width=200, stderr=bool(said.json))
    found = asyncio.run(measure([int(size) for size in said.sizes.split(",")], said.seconds, console))
    ratio = found[max(found)].p99_ms / found[min(found)].p99_ms
    console.print(f"p99 at {max(found)} slots to {min(found)}: ratio {ratio:.2f} (less than 2)")
    if said.json:
        print(msgspec.json.encode({"ratio": ratio, "runs": {str(size): run for size, run in found.items()}}).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
