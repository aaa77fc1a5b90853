"""`locum drill` as an operator runs it, and that it does not pass what should not."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from failover.drill.faultfs.launch import why_no_fuse
from tests.acceptance.cluster import running

SHORT = """
name = "short"
why = "The shortest that there is."
[[steps]]
do = "operator"
action = "switchover"
[load]
before_s = 1
lasts_s = 1
[expect]
verdicts = ["any"]
"""
ROOT = Path(__file__).resolve().parents[2]


def locum(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "compose", *words], capture_output=True, text=True, timeout=220, check=False, cwd=ROOT
    )


def reports(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_the_list_shows_what_there_is_and_what_it_needs() -> None:
    done = locum("drill", "list", "--json")
    assert done.returncode == 0, done.stderr
    assert {"sigkill-primary", "page-noise-on-read", "wal-eio", "stall-data-disk"} <= {
        scenario["name"] for scenario in json.loads(done.stdout)
    }


def test_a_killed_primary_passes_and_leaves_a_report(tmp_path: Path) -> None:
    done = locum("drill", "run", "sigkill-primary", "--report", str(tmp_path / "r"), "--junit", str(tmp_path / "j.xml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    (report,) = json.loads((tmp_path / "r/report.json").read_text())
    measured = report["measured"]
    assert (measured["lost_writes"], measured["failed"], measured["verdicts"]) == (0, 0, ["process_dead"])
    assert measured["acknowledged"] > 100
    assert "recovery point (writes lost) | 0 | 0" in (tmp_path / "r/report.md").read_text()
    assert (tmp_path / "r/01-sigkill-primary/history.jsonl").stat().st_size > 0
    assert "<testsuite" in (tmp_path / "j.xml").read_text()


@pytest.mark.skipif(why_no_fuse() is not None, reason=str(why_no_fuse()))
def test_a_page_that_comes_back_altered_passes_only_with_the_right_verdict(tmp_path: Path) -> None:
    """The same fault twice: as it ships, and with an expectation that is wrong on purpose."""
    scenario = (ROOT / "failover/drill/scenarios/page-noise-on-read.toml").read_text()
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(scenario.replace('verdicts = ["page_corrupt"]', 'verdicts = ["unreachable"]'))
    done = locum("drill", "run", "page-noise-on-read", str(wrong), "--json")
    right, convicted = reports(done)
    assert (right["result"], right["said"]) == ("passed", [])
    assert "bit_flip at read of base/" in right["injected"][0]
    assert convicted["result"] == "failed"
    assert "the verdict named page_corrupt, not unreachable" in convicted["said"][0]
    assert done.returncode == 1


def test_a_drill_that_is_aborted_heals_and_leaves_nothing_running(tmp_path: Path) -> None:
    """Ctrl-C while the primary is stopped by SIGSTOP."""
    command = [sys.executable, "-m", "compose", "drill", "run", "sigstop-node", "--report", str(tmp_path)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    assert running.stdout is not None
    said = ""
    try:
        while "SIGSTOP to postgres primary" not in said:
            line = running.stdout.readline()
            assert line, said
            said += line
        data = tmp_path / "01-sigstop-node/data"
        pids = [process["pid"] for process in json.loads((data / "pids.json").read_text()).values()]
        pids += [int((data / "nodes" / node / "pgdata/postmaster.pid").read_text().split()[0]) for node in ("a", "b")]
        running.send_signal(signal.SIGINT)
        said += running.communicate(timeout=120)[0]
    finally:
        running.kill()
        running.wait(30)
    assert running.returncode == 1
    assert "aborted: its faults are healed and its cluster is stopped" in said
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


async def test_a_deployment_is_drilled_only_when_it_says_so_and_goes_on_afterwards(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        url = cluster.ready.controller
        done = await asyncio.to_thread(locum, "drill", "run", "sigkill-server", "--against", url)
        assert (done.returncode, "not marked as a drill target" in done.stderr) == (1, True), done.stderr
    (tmp_path / "marked").mkdir()
    async with running(tmp_path / "marked", "--drill-target", "--demo-practitioners", "40") as cluster:
        url = cluster.ready.controller
        await cluster.wait_until(lambda view: view["phase"] == "healthy")
        words = ("drill", "run", "sigkill-primary", "wal-eio", "switchover", "--against", url, "--json")
        done = await asyncio.to_thread(locum, *words)
        killed, refused, switched = reports(done)
        assert (killed["result"], switched["result"]) == ("passed", "passed"), done.stdout
        assert (refused["result"], "allows no step of kind disk" in refused["said"][0]) == ("skipped", True)
        await cluster.wait_until(lambda view: view["phase"] == "healthy")


def test_what_a_killed_drill_left_is_undone_by_the_next_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "compose", "drill", "run", "sigstop-node", "--report", str(tmp_path)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    assert running.stdout is not None
    said = ""
    while "SIGSTOP to postgres primary" not in said:
        line = running.stdout.readline()
        assert line, said
        said += line
    running.kill()
    running.communicate(timeout=30)
    data = tmp_path / "01-sigstop-node/data"
    pids = [process["pid"] for process in json.loads((data / "pids.json").read_text()).values()]
    pids += [int((data / "nodes" / node / "pgdata/postmaster.pid").read_text().split()[0]) for node in ("a", "b")]
    assert any(Path(f"/proc/{pid}").exists() for pid in pids), "nothing was left"
    done = locum("drill", "run", "no-such-file.toml")
    assert done.returncode == 1
    (tmp_path / "none.toml").write_text(SHORT)
    done = locum("drill", "run", str(tmp_path / "none.toml"))
    assert "undid what a drill had left that was killed" in done.stderr, done.stdout + done.stderr
    assert [pid for pid in pids if alive(pid)] == []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_scenario_that_does_not_exist_or_makes_no_sense_is_refused(tmp_path: Path) -> None:
    done = locum("drill", "run", "no-such-thing")
    assert (done.returncode, "there is no scenario no-such-thing" in done.stderr) == (1, True)
    (tmp_path / "bad.toml").write_text("name = 'x'")
    done = locum("drill", "run", str(tmp_path / "bad.toml"))
    assert (done.returncode, "bad.toml" in done.stderr) == (1, True)
