"""Bookings a second over HTTP, against PostgreSQL doing the same work one transaction a booking.

`python bench/booking.py [--rounds 5] [--seconds 6] [--workers 2] [--json]`: on one `locum up` with a synchronous standby, in turn:
$book with an Idempotency-Key by 64 connections until the time is over, and pgbench with 64 clients calling the same function of
the same schema (key, constraints, audit event, seal, synchronous commit) once a transaction. Then `$find` with 10 practitioners
over 14 days. `ratio` is bookings acknowledged over HTTP to pgbench's transactions, both as the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import msgspec
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from a clone that is not installed

from bench.http_load import Summary
from replication.installation import Installation, find_installation
from server.seal import row_key
from tests.acceptance import fhir
from tests.acceptance.cluster import Cluster, running

CONNECTIONS = 64
_ROOT = Path(__file__).resolve().parent.parent
_PRACTITIONERS, _SLOTS_EACH = 2_000, 200
_LAG_BYTES = 1_000_000
_FILL = """
INSERT INTO location SELECT 'bench-' || i, 'Bench room ' || i, 'site-north' FROM generate_series(1, :people) i;
INSERT INTO practitioner SELECT 'bench-' || i, 'B', 'N', '394814009', 'General practice', 'bench-' || i
FROM generate_series(1, :people) i;
INSERT INTO patient SELECT 'bench-' || i FROM generate_series(1, :people) i;
INSERT INTO slot SELECT md5(i || ' ' || j)::uuid, 'bench-' || i, 'bench-' || i, t, t + interval '15 minutes'
FROM generate_series(1, :people) i, generate_series(1, :slots) j,
     LATERAL (SELECT date_trunc('day', now()) + interval '40 days' + j * interval '15 minutes' AS t) AS m;
CREATE TABLE bench_slot AS SELECT row_number() OVER (ORDER BY starts_at, practitioner_id) AS n, id, practitioner_id FROM slot
WHERE practitioner_id LIKE 'bench-%';
ALTER TABLE bench_slot ADD PRIMARY KEY (n);
CREATE SEQUENCE bench_turn;
GRANT SELECT ON bench_slot TO locum_server;
GRANT USAGE ON bench_turn TO locum_server;
ANALYZE;
CHECKPOINT;
"""
_SCRIPT = """
SELECT locum_take('pgbench ' || n, '\\x00', md5('pgbench ' || n)::uuid, 'booked', id, NULL, NULL, practitioner_id, NULL, NULL, now(),
                  NULL, 'pgbench', md5('audit ' || n)::uuid, NULL)
FROM bench_slot WHERE n = (SELECT nextval('bench_turn'));
"""


class Run(msgspec.Struct, frozen=True):
    """One stretch of one kind."""

    rate: float
    p50_ms: float
    p99_ms: float


async def measure(rounds: int, seconds: float, workers: int, console: Console) -> dict[str, list[Run]]:
    """Every round of each kind."""
    installation = await asyncio.to_thread(find_installation, None)
    found: dict[str, list[Run]] = {"http": [], "pgbench": [], "find": []}
    async with filled(workers) as clinic:
        await clinic.book(2.0)  # warm
        for _ in range(rounds):
            found["http"].append(await clinic.book(seconds))
            found["pgbench"].append(await clinic.pgbench(installation, seconds))
            console.print(f"http {found['http'][-1]}, pgbench {found['pgbench'][-1]}")
        found["find"].append(await _find(clinic.cluster, seconds))
    return found


class Clinic:
    """A cluster with free times to book, in their order: each is taken once."""

    def __init__(self, cluster: Cluster, primary: str, place: Path, slots: list[object]) -> None:
        self.cluster = cluster
        self.primary = primary
        self._place = place
        self._slots = slots
        self._taken = 0

    async def book(self, seconds: float) -> Run:
        """$book over HTTP, as fast as it is answered. Raises AssertionError when one was refused."""
        summary = await _book(self.cluster, self._slots[self._taken :], seconds)
        assert set(summary.statuses) == {"201"}, summary.statuses
        self._taken += summary.answered
        return Run(summary.rate, summary.p50_ms, summary.p99_ms)

    async def pgbench(self, installation: Installation, seconds: float) -> Run:
        """The same by pgbench, one transaction a booking."""
        async with self.cluster.sql(self.primary) as connection:
            await connection.execute("SELECT setval('bench_turn', $1)", self._taken + 1)
        run, count = await asyncio.to_thread(_pgbench, installation, self.cluster, self.primary, self._place, seconds)
        self._taken += count + CONNECTIONS
        return run


@asynccontextmanager
async def filled(workers: int) -> AsyncIterator[Clinic]:
    """`locum up` with a synchronous standby, filled, and what follows is not to pay for the filling."""
    with tempfile.TemporaryDirectory(prefix="locum-bench-") as name:
        place = Path(name)
        await asyncio.to_thread(place.chmod, 0o755)  # PostgreSQL runs as another account when this is run by root
        async with running(place, "--demo-practitioners", "10", "--workers", str(workers)) as cluster:
            primary = (await cluster.view())["primary"]
            async with cluster.sql(primary) as connection:
                await connection.execute(
                    _FILL.replace(":people", str(_PRACTITIONERS)).replace(":slots", str(_SLOTS_EACH))
                )
                slots = await connection.fetch("SELECT id, practitioner_id FROM bench_slot ORDER BY n")
            await cluster.wait_until(is_settled, 300)
            yield Clinic(cluster, primary, place, slots)


async def _book(cluster: Cluster, slots: list[object], seconds: float) -> Summary:
    lines = []
    for slot in slots[: int(seconds * 12_000)]:
        body = fhir.book_body(f"prop-{slot['id']}", slot["practitioner_id"])  # type: ignore[index]
        request = {"path": "/fhir/Appointment/$book", "body": body, "headers": {"Idempotency-Key": str(uuid.uuid4())}}
        lines.append(msgspec.json.encode(request))
    return await http_load(cluster, b"\n".join(lines), seconds)


async def _find(cluster: Cluster, seconds: float) -> Run:
    found = await fhir.find_days(cluster.session, cluster.ready.server, range(1))
    who = sorted({proposal.practitioner for proposal in found})
    start = found[0].start
    body = fhir.parameters(
        {"name": "start", "valueDateTime": start},
        {"name": "end", "valueDateTime": _days_later(start, 14)},
        {"name": "_count", "valueInteger": 50},
        *({"name": "practitioner", "valueReference": {"reference": f"Practitioner/{name}"}} for name in who),
    )
    line = msgspec.json.encode({"path": "/fhir/Appointment/$find", "body": body})
    summary = await http_load(cluster, b"\n".join([line] * int(seconds * 5_000)), seconds)
    assert set(summary.statuses) == {"200"}, summary.statuses
    return Run(summary.rate, summary.p50_ms, summary.p99_ms)


def is_settled(view: dict[str, Any]) -> bool:
    """Both nodes have read the WAL that there is, and the nodes' search for damage costs what it costs in quiet."""
    ledgers = [node["ledger"] for node in view["nodes"].values()]
    return all(ledger is not None and ledger["lag_bytes"] < _LAG_BYTES for ledger in ledgers)


def _days_later(start: str, days: int) -> str:
    return (datetime.datetime.fromisoformat(start) + datetime.timedelta(days=days)).isoformat()


async def http_load(cluster: Cluster, lines: bytes, seconds: float, connections: int = CONNECTIONS) -> Summary:
    """Send these requests to the server, as fast as they are answered."""
    at = urlsplit(cluster.ready.server)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.http_load", str(at.hostname), str(at.port), str(connections), str(seconds)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_ROOT,
    )
    async with asyncio.timeout(seconds + 60):
        output, _ = await process.communicate(lines)
    assert process.returncode == 0, output
    return msgspec.json.decode(output.splitlines()[-1], type=Summary)


def _pgbench(installation: Installation, cluster: Cluster, node: str, place: Path, seconds: float) -> tuple[Run, int]:
    """Its rate, and how many transactions it made."""
    secrets_dir = Path(cluster.ready.token_file).parent
    script, log = place / "book.sql", place / "latencies"
    script.write_text(_SCRIPT)
    for old in place.glob("latencies*"):
        old.unlink()
    port = cluster.ready.nodes[node].port
    options = (
        f"-c synchronous_commit=on -c jit=off -c locum.seal_key={row_key((secrets_dir / 'seal').read_text().strip())}"
    )
    command = installation.command(
        "pgbench",
        *("-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-n", "-M", "prepared", "-f", str(script)),
        *("-c", str(CONNECTIONS), "-j", "2", "-T", str(round(seconds)), "-l", f"--log-prefix={log}", "locum"),
    )
    password = (secrets_dir / "superuser").read_text().strip()
    done = subprocess.run(
        command,
        env={**os.environ, "PGPASSWORD": password, "PGOPTIONS": options, "PGSSLMODE": "disable"},
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
        cwd=place,
    )
    assert done.returncode == 0, done.stderr
    rate = re.search(r"tps = ([0-9.]+)", done.stdout)
    count = re.search(r"actually processed: (\d+)", done.stdout)
    assert rate is not None, done.stdout
    assert count is not None, done.stdout
    took_us = sorted(
        int(line.split()[2]) for path in place.glob("latencies*") for line in path.read_text().splitlines()
    )
    run = Run(float(rate[1]), took_us[len(took_us) // 2] / 1000, took_us[len(took_us) * 99 // 100] / 1000)
    return run, int(count[1])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    said = parser.parse_args()
    console = Console(width=200, stderr=bool(said.json))
    found = asyncio.run(measure(said.rounds, said.seconds, said.workers, console))
    rates = {what: median(run.rate for run in runs) for what, runs in found.items()}
    for what, runs in found.items():
        p50, p99 = median(run.p50_ms for run in runs), median(run.p99_ms for run in runs)
        console.print(f"{what}: {rates[what]:.0f}/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    ratio = rates["http"] / rates["pgbench"]
    console.print(f"bookings over HTTP to pgbench: ratio {ratio:.2f} (at least 1.0)")
    if said.json:
        print(msgspec.json.encode({"ratio": ratio, "runs": found}).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
