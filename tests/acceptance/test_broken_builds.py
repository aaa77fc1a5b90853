"""Builds that are broken on purpose are convicted by a drill, each of the guarantee that it broke.

The break is a `sitecustomize` on the path of the processes that `locum up` starts; nothing of it is in the shipped packages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BREAKS = Path(__file__).parent / "breaks"


def drill(broken: str, *names: str) -> list[dict[str, Any]]:
    path = os.pathsep.join([str(BREAKS / broken), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "compose", "drill", "run", *names, "--json"],
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_commits_that_wait_for_nobody_are_found_lost() -> None:
    (report,) = drill("no_sync", "sigkill-primary")
    assert report["result"] == "failed"
    assert "lost" in {finding["kind"] for finding in report["findings"]}
    assert report["measured"]["lost_writes"] > 0


def test_a_verdict_that_blames_the_network_for_everything_is_found_wrong() -> None:
    (report,) = drill("blames_network", "sigkill-primary")
    assert report["result"] == "failed"
    assert report["said"] == ["the verdict named unreachable, not process_dead"]
    assert report["findings"] == []
