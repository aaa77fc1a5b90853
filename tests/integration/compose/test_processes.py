"""Children and leftovers with real processes: restarts, ordered ends, and never somebody else's pid."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import compose.processes
from compose.adopt import end_leftovers, leftovers, record
from compose.checks import all_or_nothing, exclusive
from compose.errors import ChildFailed, UpRefused
from compose.layout import Layout
from compose.proc import end
from compose.processes import Child
from replication.proc import ProcessId, alive, identify

SLEEPER = "import time; time.sleep(600)"
IGNORE = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); "
STUBBORN = IGNORE + SLEEPER


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", SLEEPER])
    yield process
    process.kill()
    process.wait(10)


def prepared(root: Path) -> Layout:
    layout = Layout(root)
    for directory in layout.directories():
        directory.mkdir(mode=0o700, exist_ok=True)
    return layout


def child_that_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str) -> Child:
    monkeypatch.setattr(compose.processes, "child_command", lambda _name, _settings: [sys.executable, "-c", program])
    return Child("server", tmp_path / "server.toml", tmp_path / "server.log", lambda _name, _code: None)


async def until(condition: object, deadline_s: float = 20) -> None:
    assert callable(condition)
    stop = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < stop, "not within the deadline"
        await asyncio.sleep(0.01)


def test_a_pid_with_another_start_time_is_not_touched(sleeper: subprocess.Popen[bytes]) -> None:
    process = identify(sleeper.pid)
    assert process is not None
    impostor = ProcessId(process.pid, process.started - 1)
    assert end(impostor, patience_ms=0) is False
    assert alive(process)
    assert end(process, patience_ms=2_000) is True
    assert identify(sleeper.pid) is None


def test_a_process_that_ignores_sigterm_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"deaf\n"
        found = identify(process.pid)
        assert found is not None
        assert end(found, patience_ms=100) is True
        assert process.wait(10) == -signal.SIGKILL


def test_leftovers_are_found_by_record_and_by_argument_vector(tmp_path: Path) -> None:
    layout, other = prepared(tmp_path / "data"), prepared(tmp_path / "other")
    started = [
        subprocess.Popen([sys.executable, "-c", SLEEPER, "agent", "--config", str(place.settings("agent-a"))])
        for place in (layout, other)
    ]
    recorded = subprocess.Popen([sys.executable, "-c", SLEEPER])
    try:
        of_record = identify(recorded.pid)
        assert of_record is not None
        record(layout, {"controller": of_record, "server": ProcessId(os.getpid(), 1)})
        deadline = time.monotonic() + 10
        while len(found := leftovers(layout)) < 2:
            assert time.monotonic() < deadline, found
        assert [(name, process.pid) for name, process in found] == [
            ("controller", recorded.pid),
            ("agent-a", started[0].pid),
        ]
        end_leftovers(found)
        assert leftovers(layout) == []
        assert started[1].poll() is None
    finally:
        for process in (*started, recorded):
            process.kill()
            process.wait(10)


async def test_a_child_that_dies_is_started_again_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    child, starts = child_that_runs(monkeypatch, tmp_path, SLEEPER), list[ProcessId | None]()
    child.must_stay_up = True

    async def changed() -> None:
        starts.append(child.process)

    keeping = asyncio.create_task(child.keep_running(changed))
    await until(lambda: len(starts) == 1)
    assert starts[0] is not None
    killed_at = time.monotonic()
    os.kill(starts[0].pid, signal.SIGKILL)
    await until(lambda: len(starts) == 2)
    assert time.monotonic() - killed_at < 2
    assert starts[1] != starts[0]
    assert await child.stop(patience_ms=10_000) is True
    await keeping
    assert not any(alive(process) for process in starts if process is not None)


async def test_a_child_that_never_starts_fails_up_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = child_that_runs(monkeypatch, tmp_path, "import sys; sys.exit('the store is locked')")

    async def changed() -> None:
        return

    with pytest.raises(ChildFailed, match=r"server.*the store is locked.*server\.log"):
        await child.keep_running(changed)


async def test_a_child_that_does_not_stop_in_time_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    child = child_that_runs(monkeypatch, tmp_path, STUBBORN)

    async def changed() -> None:
        return

    keeping = asyncio.create_task(child.keep_running(changed))
    log = tmp_path / "server.log"
    await until(lambda: log.exists() and b"deaf" in log.read_bytes())
    assert await child.stop(patience_ms=100) is False
    await keeping


def test_there_is_one_up_on_a_directory(tmp_path: Path) -> None:
    layout = prepared(tmp_path / "data")
    with exclusive(layout):
        with pytest.raises(UpRefused, match="another `locum up` runs"):
            with exclusive(layout):
                pass
    with exclusive(layout):
        pass


@pytest.mark.parametrize("made_root", [True, False])
def test_a_first_start_that_fails_leaves_nothing_behind(tmp_path: Path, made_root: bool) -> None:
    layout = Layout(tmp_path / "data")
    layout.root.mkdir()
    with exclusive(layout), pytest.raises(UpRefused, match="is full"):
        with all_or_nothing(layout, remove_root=made_root):
            layout.secrets.mkdir()
            raise OSError(28, "No space left on device")
    assert layout.root.exists() is not made_root
    assert not made_root or not layout.root.exists()
    assert made_root or list(layout.root.iterdir()) == []


def test_a_later_start_that_fails_takes_nothing_away(tmp_path: Path) -> None:
    layout = prepared(tmp_path / "data")
    with exclusive(layout), pytest.raises(UpRefused, match="unchanged"):
        with all_or_nothing(layout, remove_root=False):
            raise OSError(28, "No space left on device")
    assert layout.secrets.exists()
