"""What nobody reads is found all the same, on either node; and where nothing is, nothing is found."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import fhir
from tests.acceptance.cluster import Cluster, running
from tests.acceptance.corruption import write_noise
from tests.acceptance.workload import Workload

ROOT = Path(__file__).resolve().parents[2]
BLOCK = 2


def scrub_now(cluster: Cluster) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "compose", "scrub", "--now", "--json", "--data", str(cluster.layout.root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


async def test_passes_under_load_find_nothing_where_nothing_is(tmp_path: Path) -> None:
    async with running(tmp_path, "--demo-practitioners", "20") as cluster:
        proposals = await fhir.endless(cluster.session, cluster.ready.server)
        async with Workload(cluster.ready.server, proposals, rate=50) as workload:
            for _ in range(3):
                code, found = await asyncio.to_thread(scrub_now, cluster)
                assert (code, [node["bad"] for node in found.values()]) == (0, [0, 0])
                assert min(node["pages"] for node in found.values()) > 1_000
            history = await workload.stop()
        assert history.failed == []
        view = await cluster.view()
        assert [node["faults"] for node in view["nodes"].values()] == [[], []]
        assert view["term"] == 1


@pytest.mark.parametrize("role", ["standby", "primary"])
async def test_a_page_that_rots_where_nobody_reads_is_named_and_its_node_rebuilt(tmp_path: Path, role: str) -> None:
    """The page lies in shared buffers too: whoever asks PostgreSQL is answered as if nothing were."""
    async with running(tmp_path) as cluster:
        primary = (await cluster.view())["primary"]
        node = primary if role == "primary" else next(name for name in cluster.ready.nodes if name != primary)
        async with cluster.sql(node) as connection:
            path = await connection.fetchval("SELECT pg_relation_filepath('slot')")
        await asyncio.to_thread(write_noise, cluster.layout.pgdata(node) / path, BLOCK)
        incident = await cluster.closed_incident()
        assert (incident["verdict"]["kind"], incident["verdict"]["node"]) == ("page_corrupt", node)
        assert f"block {BLOCK} of {path}" in incident["verdict"]["sentence"]
        view = await cluster.wait_healthy()
        assert (view["primary"] == primary) is (role == "standby"), "a damaged standby is no reason to promote anybody"
        await evidence_is_kept(cluster, tmp_path, incident["id"], node, path)


async def evidence_is_kept(cluster: Cluster, tmp_path: Path, incident: str, node: str, path: str) -> None:
    """The node was rebuilt since; the page as it was then is in the bundle, and no patient in its readable part."""
    output = tmp_path / "bundle.tar.gz"
    command = [sys.executable, "-m", "compose", "incident", "bundle", incident, "--output", str(output)]
    command += ["--data", str(cluster.layout.root)]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert output.stat().st_mode & 0o777 == 0o600
    with tarfile.open(output) as archive:
        files = {member.name.split("/", 1)[1]: member for member in archive.getmembers()}
        read = {name: (archive.extractfile(member) or io.BytesIO()).read() for name, member in files.items()}
    assert json.loads(read["incident.json"])["id"] == incident
    kept = [json.loads(data) for name, data in read.items() if name.startswith(f"{node}/") and name.endswith(".json")]
    pages = [
        page
        for one in kept
        for page in one["pages"]
        if page["place"] == {"path": path, "relation": None, "block": BLOCK}
    ]
    assert pages and pages[0]["header"]["checksum_fits"] is False
    assert pages[0]["peer_header"]["checksum_fits"] is True, pages[0]
    assert any(
        name.startswith(f"{node}/") and name.endswith(".page") and len(data) == 8192 for name, data in read.items()
    )


@pytest.mark.parametrize("name", ["wal-segment-damaged", "control-file-damaged"])
def test_what_postgres_reads_only_when_it_starts_is_found_while_it_runs(name: str) -> None:
    command = [sys.executable, "-m", "compose", "drill", "run", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
