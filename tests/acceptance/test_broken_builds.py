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
        timeout=300,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_commits_that_wait_for_nobody_are_found_lost() -> None:
    (report,) = drill("no_sync", str(BREAKS / "no_sync" / "scenario.toml"))
    assert report["result"] == "failed"
    assert "lost" in {finding["kind"] for finding in report["findings"]}
    assert report["measured"]["lost_writes"] > 0


def test_a_verdict_that_blames_the_network_for_everything_is_found_wrong() -> None:
    (report,) = drill("blames_network", "sigkill-primary")
    assert report["result"] == "failed"
    assert report["said"] == ["the verdict named unreachable, not process_dead"]
    assert report["findings"] == []


def kinds(report: dict[str, Any]) -> set[str]:
    return {finding["kind"] for finding in report["findings"]}


def test_an_idempotency_row_of_another_transaction_is_found_out_by_a_retry() -> None:
    """The booking committed, its row did not: the retry is refused by the booking itself, and the patient told that it failed."""
    (report,) = drill("two_transactions", "sigkill-primary")
    assert kinds(report) & {"duplicated", "wrong_content"}, report["said"]


def test_without_constraints_two_clients_get_the_same_slot() -> None:
    (report,) = drill("no_constraints", "sigkill-server")
    assert "overlapping" in kinds(report), report["said"]


def test_reads_from_a_primary_that_was_superseded_are_found_stale() -> None:
    (report,) = drill("serves_superseded", str(BREAKS / "serves_superseded" / "scenario.toml"))
    assert "stale_read" in kinds(report), report["said"]


def test_a_lone_primary_that_is_opened_without_its_receipts_has_lost_bookings() -> None:
    (report,) = drill("receipts_unchecked", "lone-primary-loses-wal-tail")
    assert "lost" in kinds(report), report["said"]


def test_a_diverged_node_that_may_confirm_loses_what_it_confirmed() -> None:
    for _ in range(3):
        (report,) = drill("diverged_confirms", str(BREAKS / "diverged_confirms" / "scenario.toml"))
        if kinds(report) != {"unreadable"}:
            break  # where nobody serves in the end nothing can be read, and nothing was shown: made again
    assert "lost" in kinds(report), report["said"]


def test_a_primary_that_is_opened_after_it_lost_the_end_of_its_wal_has_lost_bookings() -> None:
    (report,) = drill("lost_tail_opened", "wal-tail-lost-both-nodes")
    assert "lost" in kinds(report), report["said"]
