"""How fast PostgreSQL is on the faulty disk while nothing is wrong with it, against a plain directory in the same run.

`python bench/faultfs.py [--rounds 5] [--seconds 5] [--clients 4] [--json]`: rounds of single-row inserts by pgbench, each on
the plain directory and on faultfs; the ratio is that of the medians, faultfs to plain.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from a clone that is not installed

from failover.drill.faultfs.launch import why_no_fuse
from tests.integration.drill.bare import Bare, postgres_in
from tests.integration.drill.mounts import mounted

_INSERT = "INSERT INTO written (content) VALUES (repeat('x', 100));\n"


async def measure(rounds: int, seconds: int, clients: int) -> dict[str, list[float]]:
    """Inserts a second, for each round."""
    found: dict[str, list[float]] = {"plain": [], "faultfs": []}
    with tempfile.TemporaryDirectory(prefix="locum-bench-") as name:
        place = Path(name)
        await asyncio.to_thread(place.chmod, 0o755)
        script = place / "insert.sql"
        await asyncio.to_thread(script.write_text, _INSERT)
        plain = place / "plain"
        await asyncio.to_thread(plain.mkdir)
        with mounted(place) as disk:
            async with AsyncExitStack() as stack:
                servers = {
                    "plain": await stack.enter_async_context(postgres_in(plain)),
                    "faultfs": await stack.enter_async_context(postgres_in(disk.path)),
                }
                for server in servers.values():
                    await _prepare(server)
                for _ in range(rounds):
                    for what, server in servers.items():
                        found[what].append(await asyncio.to_thread(_load, server, script, seconds, clients))
                        print(f"{what}: {found[what][-1]:.0f} inserts/s", file=sys.stderr)
    return found


async def _prepare(server: Bare) -> None:
    connection = await server.connect()
    await connection.execute("CREATE TABLE written (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, content text)")
    await connection.close()


def _load(server: Bare, script: Path, seconds: int, clients: int) -> float:
    said = server.tool(
        "pgbench",
        *("-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres", "-n", "-f", str(script)),
        *("-c", str(clients), "-T", str(seconds), "postgres"),
    )
    rate = re.search(r"tps = ([0-9.]+)", said)
    assert rate is not None, said
    return float(rate.group(1))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    said = parser.parse_args()
    why = why_no_fuse()
    if why is not None:
        print(f"skipped: {why}")
        return 0
    found = asyncio.run(measure(said.rounds, said.seconds, said.clients))
    rates = {what: median(values) for what, values in found.items()}
    ratio = rates["faultfs"] / rates["plain"]
    print(f"plain {rates['plain']:.0f}/s, faultfs {rates['faultfs']:.0f}/s: ratio {ratio:.2f} (at least 0.50)")
    if said.json:
        print(msgspec.json.encode({"ratio": round(ratio, 3), "inserts_a_second": found}).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
