"""Everything at once that is no fault: nobody is promoted for it, and nothing is found.

Bookings, four busy loops, passes over all pages, base backups, clocks that jump, a storm of DDL, and memory that runs short in a cgroup of
its own where one can be made. `LOCUM_CALM_S=1800` for half an hour of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from replication.installation import find_installation
from tests.acceptance import fhir
from tests.acceptance.checker import check
from tests.acceptance.cluster import Cluster, running
from tests.acceptance.test_busy import busy_loops
from tests.acceptance.workload import Workload
from tests.integration.replication.storm import CREATE, STEPS

CALM_S = float(os.environ.get("LOCUM_CALM_S", "25"))
RATE = 20
LOOPS = 4
_PRACTITIONERS = 40 if CALM_S < 600 else 80  # each has some 800 free times
_BALLOON_LEAVES_BYTES = 1024**3
_BALLOON = (
    "import sys, time; held = bytearray(int(sys.argv[1])); held[::4096] = b'x' * len(held[::4096]); time.sleep(1e6)"
)


async def ddl(cluster: Cluster, primary: str) -> None:
    async with cluster.sql(primary) as connection:
        await connection.execute(CREATE)
        while True:
            for step in STEPS:
                with contextlib.suppress(asyncpg.DeadlockDetectedError, asyncpg.ObjectInUseError):
                    await connection.execute(step)
                await asyncio.sleep(0.1)


async def scrubs(cluster: Cluster) -> None:
    """One pass over all pages after the other, as fast as the disk is."""
    while True:
        view = await cluster.view()
        for node in view["nodes"]:
            status, answer = await cluster.post(
                f"/v1/nodes/{node}/scrub", {"expected_term": view["term"], "reason": "a calm day"}
            )
            assert status in (202, 503), answer  # a starved agent may be late for it: the next one comes in 3 s
        await asyncio.sleep(3)


async def backups(cluster: Cluster, primary: str, place: Path) -> None:
    """pg_basebackup, as for another standby, again and again."""
    installation = find_installation(None)
    password = (Path(cluster.ready.token_file).parent / "replication").read_text().strip()
    port = cluster.ready.nodes[primary].port
    turn = 0
    while True:
        turn += 1
        target = place / f"backup{turn}"
        await asyncio.to_thread(target.mkdir)
        await asyncio.to_thread(installation.own, target)
        words = [
            "-D",
            str(target),
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-U",
            "locum_replication",
            "-X",
            "none",
            "--no-slot",
        ]
        process = await asyncio.create_subprocess_exec(
            *installation.command("pg_basebackup", *words, "-c", "spread", "-r", "20M"),
            env={**os.environ, "PGPASSWORD": password, "PGSSLMODE": "disable"},
            stderr=subprocess.DEVNULL,
        )
        try:
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await asyncio.to_thread(shutil.rmtree, target, True)
        await asyncio.sleep(1)


async def clocks(cluster: Cluster) -> None:
    """Every agent's wall clock jumps, back and forth."""
    chosen = random.Random(1)
    token = Path(cluster.ready.token_file).read_text().strip()
    while True:
        for node in cluster.ready.nodes.values():
            async with cluster.session.post(
                f"{node.agent}/v1/clock",
                json={"wall_clock_offset_ms": chosen.randrange(-100_000_000, 100_000_000)},
                headers={"Authorization": f"Bearer {token}"},
            ) as answer:
                assert answer.status == 200
        await asyncio.sleep(2)


@asynccontextmanager
async def balloon() -> AsyncIterator[str]:
    """Memory that is taken until 1 GB is left, in a cgroup of its own, so that the kernel ends nobody else. Told: whether."""
    group = Path("/sys/fs/cgroup") / f"locum-balloon-{os.getpid()}-{secrets.token_hex(3)}"
    try:
        group.mkdir()
    except OSError as error:
        yield f"no balloon: no cgroup can be made here ({error.strerror})"
        return
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    held = max(0, free - _BALLOON_LEAVES_BYTES)
    process = subprocess.Popen([sys.executable, "-c", _BALLOON, str(held)])
    try:
        with contextlib.suppress(OSError):
            (group / "cgroup.procs").write_text(str(process.pid))
        yield f"{held // 1024**2} MB held in a cgroup of its own"
    finally:
        process.kill()
        process.wait()
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            await asyncio.sleep(0.05)


@pytest.mark.timeout(int(4 * CALM_S) + 300)
async def test_a_calm_day_with_everything_at_once_promotes_nobody_and_finds_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    async with running(tmp_path, "--demo-practitioners", str(_PRACTITIONERS)) as cluster, balloon() as told:
        before = await cluster.view()
        primary = before["primary"]
        proposals = await fhir.endless(cluster.session, cluster.ready.server)
        async with Workload(cluster.ready.server, proposals, rate=RATE) as workload:
            await workload.until_acknowledged(RATE)
            with busy_loops(LOOPS):
                works = (ddl(cluster, primary), scrubs(cluster), backups(cluster, primary, tmp_path), clocks(cluster))
                parts = [asyncio.ensure_future(work) for work in works]
                try:
                    await calm(cluster, before, parts)
                finally:
                    for part in parts:
                        part.cancel()
                    await asyncio.wait(parts)
            await cluster.wait_healthy()
            history = await workload.stop()
        view = await cluster.view()
        assert (view["term"], await cluster.incidents()) == (before["term"], [])
        for node in view["nodes"].values():
            assert node["scrub"]["passes"] > 0 and node["ledger"]["entries"] > 0, "nobody looked"
        assert [(item.status, item.error) for item in history.failed] == []
        async with cluster.sql(primary) as connection:
            findings = await check(connection, history)
        assert findings.is_clean, findings
        print(f"\n{told}; {len(history.acknowledged)} bookings, the slowest in {history.slowest_ms():.0f} ms")
        for name, node in view["nodes"].items():
            print(name, node["scrub"], node["ledger"], node["comparison_of_pages"])


async def calm(cluster: Cluster, before: dict[str, object], parts: list[asyncio.Future[None]]) -> None:
    """For so long: the same term, no fault, and everything still going on."""
    until = time.monotonic() + CALM_S
    while time.monotonic() < until:
        view = await cluster.view()
        found = {name: [fault["sentence"] for fault in node["faults"]] for name, node in view["nodes"].items()}
        assert not any(found.values()), found
        assert view["term"] == before["term"], await cluster.incidents()
        ended = [part.exception() for part in parts if part.done()]
        assert not ended, ended
        await asyncio.sleep(0.5)
