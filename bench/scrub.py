"""What the search for damage costs the bookings, and how fast it is when nothing holds it back.

`python bench/scrub.py [--rounds 10] [--seconds 8] [--mb 1000] [--json]`: bookings and cancellations over HTTP by 16 clients as fast
as they are answered, on one `locum up` with so many MB of other rows, with the scrub of both nodes at its default budget and
paused, in turn; then a whole pass over a stopped node's files against `pg_checksums --check` on the same files, both cold, in
turn. `ratio` is writes a second with the scrub over without, the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import aiohttp
import msgspec
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from a clone that is not installed

from replication.installation import Installation, find_installation
from replication.scrub.pages import PagePass, Position
from replication.settings import AgentSettings
from tests.acceptance import fhir
from tests.acceptance.cluster import Cluster, running

CLIENTS = 16
_FILL = "CREATE TABLE other AS SELECT i, repeat(md5(i::text), 12) AS body FROM generate_series(1, $1::bigint) i"
_ROWS_A_MB = 2_300
_SETTLE_S = 1.0
_BUDGETS = {field.name: field.default for field in msgspec.structs.fields(AgentSettings)}


class Load:
    """Clients that book a free time and cancel it again, each on times of its own."""

    def __init__(self, cluster: Cluster, proposals: list[fhir.Proposal]) -> None:
        self._cluster = cluster
        self._proposals = proposals
        self._took_s: list[float] = []

    async def run(self, seconds: float) -> tuple[float, float]:
        """(writes a second, 99th percentile of their latency in ms)."""
        self._took_s, until_s = [], time.monotonic() + seconds
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._client(self._proposals[number::CLIENTS], until_s))
        return len(self._took_s) / (time.monotonic() - began_s), 1000 * quantiles(self._took_s, n=100)[98]

    async def _client(self, own: list[fhir.Proposal], until_s: float) -> None:
        for proposal in itertools.cycle(own):
            if time.monotonic() > until_s:
                return
            appointment = fhir.booked(await self._write(fhir.book_body(proposal.id, proposal.patient), 201))
            await self._write(fhir.change_body({**appointment, "status": "cancelled"}), 200)

    async def _write(self, body: fhir.Json, wanted: int) -> Any:
        began_s = time.monotonic()
        async with self._cluster.session.post(fhir.book_url(self._cluster.ready.server), json=body) as answer:
            content = await answer.json(content_type=None)
            assert answer.status == wanted, content
        self._took_s.append(time.monotonic() - began_s)
        return content


async def cost(
    rounds: int, seconds: float, mb: int, place: Path, console: Console
) -> dict[str, list[tuple[float, float]]]:
    """(writes a second, p99 in ms) of each round, with the scrub and without. Leaves a stopped cluster in `place`."""
    found: dict[str, list[tuple[float, float]]] = {"scrubbing": [], "paused": []}
    async with running(place, "--demo-practitioners", "80") as cluster:
        view = await cluster.view()
        async with cluster.sql(view["primary"]) as connection:
            await connection.execute(_FILL, mb * _ROWS_A_MB)
            # Else autovacuum does it, in the midst of some rounds.
            await connection.execute("VACUUM (FREEZE, ANALYZE) other")
            await connection.execute("CHECKPOINT")
        proposals = await fhir.find_days(cluster.session, cluster.ready.server, range(1, 12))
        load = Load(cluster, proposals)
        await load.run(seconds)
        for number in range(rounds):
            order = ("paused", "scrubbing") if number % 2 else ("scrubbing", "paused")  # neither gets the warmer turn
            for what in order:
                for node in cluster.ready.nodes.values():
                    await _pause(cluster, node.agent, 600.0 if what == "paused" else 0.0)
                await asyncio.sleep(_SETTLE_S)
                found[what].append(await load.run(seconds))
                console.print(f"{what}: {found[what][-1][0]:.0f} writes/s, p99 {found[what][-1][1]:.1f} ms")
        view = await cluster.view()
        for name, node in view["nodes"].items():
            console.print(f"{name}: {node['scrub']}, faults {node['faults']}")
        assert await cluster.interrupt() == 0, cluster.tell()
    return found


async def _pause(cluster: Cluster, agent: str, for_s: float) -> None:
    token = (await asyncio.to_thread(Path(cluster.ready.token_file).read_text)).strip()
    headers = {"Authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=10)
    async with cluster.session.post(
        f"{agent}/v1/scrub/pause", json={"for_s": for_s}, headers=headers, timeout=timeout
    ) as answer:
        assert answer.status == 200, await answer.text()


def speed(installation: Installation, data_dir: Path, rounds: int) -> dict[str, list[float]]:
    """MB/s of whole passes over the files of a stopped node, cold, by ours and by pg_checksums in turn."""
    found: dict[str, list[float]] = {"scrub": [], "pg_checksums": []}
    size_mb = 0.0
    for _ in range(rounds):
        _let_go(data_dir)
        began_s = time.monotonic()
        work, pages = PagePass(data_dir, Position(), reads_ahead=True), 0
        while (batch := work.step()) is not None:
            pages += batch.pages
            assert not batch.bad, batch.bad
        work.close()
        size_mb = pages * 8192 / 1_000_000
        found["scrub"].append(size_mb / (time.monotonic() - began_s))
        _let_go(data_dir)
        began_s = time.monotonic()
        command = installation.command("pg_checksums", "--check", "-D", str(data_dir))
        subprocess.run(command, check=True, capture_output=True, timeout=600)
        found["pg_checksums"].append(size_mb / (time.monotonic() - began_s))
    return found


def _let_go(data_dir: Path) -> None:
    """Nothing of these files is in the kernel's cache any more."""
    for path in data_dir.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--mb", type=int, default=1_000, help="of other rows, so that there is something to read")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    said = parser.parse_args()
    console = Console(width=200, stderr=bool(said.json))
    with tempfile.TemporaryDirectory(prefix="locum-bench-") as name:
        place = Path(name)
        place.chmod(0o755)  # PostgreSQL runs as another account when this is run by root
        found = asyncio.run(cost(said.rounds, said.seconds, said.mb, place, console))
        speeds = speed(find_installation(None), place / "data" / "nodes" / "b" / "pgdata", 3)
    rates = {what: median(rate for rate, _ in runs) for what, runs in found.items()}
    p99s = {what: median(p99 for _, p99 in runs) for what, runs in found.items()}
    pairs = list(zip(found["scrubbing"], found["paused"], strict=True))
    ratio = median(on[0] / off[0] for on, off in pairs)
    slower = median(on[1] / off[1] for on, off in pairs)
    unthrottled = median(speeds["scrub"]) / median(speeds["pg_checksums"])
    console.print(
        f"scrub at {_BUDGETS['scrub_mb_per_s']:g} MB/s and comparison at {_BUDGETS['compare_mb_per_s']:g} MB/s a node:"
        f" {rates['scrubbing']:.0f} against {rates['paused']:.0f} writes/s, ratio {ratio:.3f} (more than 0.95);"
        f" p99 {p99s['scrubbing']:.1f} against {p99s['paused']:.1f} ms, ratio {slower:.2f} (less than 1.20)"
    )
    console.print(
        f"unthrottled {median(speeds['scrub']):.0f} MB/s against {median(speeds['pg_checksums']):.0f} of pg_checksums,"
        f" ratio {unthrottled:.2f} (at least 0.50)"
    )
    if said.json:
        told = {
            "ratio": ratio,
            "p99_ratio": slower,
            "unthrottled_ratio": unthrottled,
            "rounds": found,
            "mb_per_s": speeds,
        }
        print(msgspec.json.encode(told).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
