"""A tool that is given up leaves nothing behind: it is dead, and its parent has taken note."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from replication.errors import ActionFailed
from replication.model import Reason
from replication.tools import run_tool


def that_sleeps(path: Path) -> list[str]:
    return ["/bin/sh", "-c", 'echo $$ > "$1" && exec sleep 60', "sh", str(path)]


async def pid_in(path: Path) -> int:
    async with asyncio.timeout(10):
        while not path.exists() or not path.read_text():
            await asyncio.sleep(0.01)
    return int(path.read_text())


async def test_one_that_was_cancelled_is_gone(tmp_path: Path) -> None:
    running = asyncio.ensure_future(run_tool(that_sleeps(tmp_path / "pid"), deadline_s=60))
    pid = await pid_in(tmp_path / "pid")
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert not Path(f"/proc/{pid}").exists()


async def test_one_that_is_late_is_gone_and_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(ActionFailed, match="did not end within") as caught:
        await run_tool(that_sleeps(tmp_path / "pid"), deadline_s=0.5)
    assert caught.value.reason == Reason.DEADLINE
    assert not Path(f"/proc/{await pid_in(tmp_path / 'pid')}").exists()
