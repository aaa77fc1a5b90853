"""Several workers at one port: each books, one that is killed costs nothing, a failover reaches all, and their receipts are one."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from tests.acceptance import fhir
from tests.acceptance.checker import check
from tests.acceptance.cluster import Cluster, running
from tests.acceptance.workload import Workload

ROOT = Path(__file__).resolve().parents[2]


async def receipts(cluster: Cluster) -> list[dict[str, Any]]:
    """What any worker says was acknowledged by all of them."""
    token = cluster.layout.token_file.read_text().strip()
    url = f"{cluster.ready.server}/internal/receipts"
    async with cluster.session.get(url, headers={"Authorization": f"Bearer {token}"}) as answer:
        assert answer.status == 200
        found: list[dict[str, Any]] = msgspec.json.decode(await answer.read())["receipts"]
        return found


def worker(cluster: Cluster, name: str) -> int:
    return int(msgspec.json.decode(cluster.layout.pids.read_bytes())[name]["pid"])


def kill_and_wait(pid: int) -> None:
    """Its sockets are closed when this returns (pidfd_open(2): readable once the process has ended)."""
    descriptor = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        ended, _, _ = select.select([descriptor], [], [], 10.0)
        assert ended, f"process {pid} lives 10 s after SIGKILL"
    finally:
        os.close(descriptor)


async def test_workers_share_a_port_survive_each_other_and_a_failover_and_hand_their_receipts_on(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, "--workers", "2", "--demo-practitioners", "20") as cluster:
        proposals = await fhir.endless(cluster.session, cluster.ready.server)
        async with Workload(cluster.ready.server, proposals, rate=60) as workload:
            await workload.until_acknowledged(120)
            before = await cluster.view()
            cluster.kill_postgres(before["primary"])
            await workload.until_acknowledged(120)
            await workload.until_caught_up()
            history = await workload.stop()
        assert [(item.status, item.error) for item in history.failed] == []
        after = await cluster.wait_healthy()
        assert after["primary"] != before["primary"]
        async with cluster.sql(after["primary"]) as connection:
            assert (await check(connection, history)).is_clean
        own = [
            len(list((cluster.layout.server_state(name) / "receipts").glob("*.log"))) for name in ("server", "server-2")
        ]
        assert min(own) > 0
        known = {receipt["id"] for receipt in await receipts(cluster)}
        assert known >= {booking.appointment for booking in history.acknowledged}
        incident = await cluster.closed_incident()
        assert incident["receipts"]["lost"] == 0
        assert 120 <= incident["receipts"]["acknowledged"] <= len(known), (
            "those of both workers, as far as they were known then"
        )
        # one that is killed is started again; the other serves on (what waited at the dead one's socket is reset with it)
        await asyncio.to_thread(kill_and_wait, worker(cluster, "server-2"))
        for _ in range(20):
            async with cluster.session.get(
                f"{cluster.ready.server}/fhir/Practitioner", headers={"Connection": "close"}
            ) as answer:
                assert answer.status == 200
        # fewer workers: what the second had acknowledged is the first one's now
        assert await cluster.interrupt() == 0
        cluster._flags = ("--workers", "1", "--demo-practitioners", "20")
        await cluster.start()
        assert {receipt["id"] for receipt in await receipts(cluster)} == known
        assert list((cluster.layout.server_state("server-2") / "receipts").glob("*.log")) == []


def token(cluster: Cluster, *flags: str) -> str:
    command = [sys.executable, "-m", "compose", "token", "--data", str(cluster.layout.root), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    return done.stdout.strip()


async def test_with_auth_the_api_needs_a_token_which_the_command_line_makes(tmp_path: Path) -> None:
    async with running(tmp_path, "--auth") as cluster:
        server = cluster.ready.server
        url = f"{server}/fhir/Appointment?_count=5"
        async with cluster.session.get(url) as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        staff = await asyncio.to_thread(token, cluster)
        async with cluster.session.get(url, headers={"Authorization": f"Bearer {staff}"}) as answer:
            assert answer.status == 200
        ada = await asyncio.to_thread(token, cluster, "--patient", "ada")
        async with cluster.session.get(
            f"{server}/fhir/Patient/bob", headers={"Authorization": f"Bearer {ada}"}
        ) as answer:
            assert answer.status == 404
        narrow = await asyncio.to_thread(token, cluster, "--scopes", "user/Slot.rs")
        async with cluster.session.get(url, headers={"Authorization": f"Bearer {narrow}"}) as answer:
            assert answer.status == 403
        for secret in (cluster.layout.auth_key, cluster.layout.jwks):
            assert secret.stat().st_mode & 0o077 == 0
        assert "d" not in json.loads(cluster.layout.jwks.read_text())["keys"][0], (
            "the private part stays in its own file"
        )
