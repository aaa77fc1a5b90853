"""docs/API.md: its lines do what they say."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path

from tests.acceptance.cluster import running

DOC = Path(__file__).resolve().parents[2] / "docs" / "API.md"


async def test_every_example_runs_in_order(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        blocks = re.findall(r"```sh\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
        assert len(blocks) >= 8
        script = "\n".join(blocks).replace("http://127.0.0.1:8080", cluster.ready.server)
        command = ["bash", "-euo", "pipefail", "-xc", script]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, (done.stdout, done.stderr[-2_000:])
        assert done.stdout.splitlines()[:2] == ["booked", "booked"]
        assert "bob" in done.stdout.splitlines()
