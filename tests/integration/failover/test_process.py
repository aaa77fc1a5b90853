"""The controller as a process: it ends cleanly on SIGTERM, and what stops it from starting is one clear sentence."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.integration.failover.scripted import HEALTHY, Scene, scene

ROOT = Path(__file__).parents[3]
RUN = "import pathlib, sys; from failover.controller import run; sys.exit(run(pathlib.Path(sys.argv[1])))"


def write_settings(made: Scene, root: Path, **changes: Any) -> Path:
    path = root / "controller.toml"
    plain = msgspec.to_builtins(made.settings, enc_hook=str)
    path.write_bytes(msgspec.toml.encode({**plain, **changes}))
    return path


async def start(settings: Path) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN, str(settings), cwd=ROOT, stdout=DEVNULL, stderr=PIPE
    )


async def ended(process: Process) -> tuple[int, str]:
    try:
        async with asyncio.timeout(15):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_sigterm_ends_it_cleanly_and_the_next_one_leads_at_once(tmp_path: Path) -> None:
    async with scene(tmp_path) as made:
        settings = write_settings(made, tmp_path)
        for _ in range(2):
            process = await start(settings)
            try:
                await made.client().ready(deadline_ms=15_000)
                cluster = await made.wait(lambda now: now["phase"] == "healthy")
                assert cluster["term"] == HEALTHY.term
            finally:
                process.send_signal(signal.SIGTERM)
                code, said = await ended(process)
            assert code == 0, said
            assert "Traceback" not in said


async def test_killed_in_a_failover_it_resumes(tmp_path: Path) -> None:
    async with scene(tmp_path) as made:
        settings = write_settings(made, tmp_path)
        process = await start(settings)
        try:
            await made.client().ready(deadline_ms=15_000)
            await made.wait(lambda now: now["phase"] == "healthy")
            made.a.tell(postmaster="exited", in_recovery=None, exit_sentence="killed by signal 9")
            await made.b.until_action("promote")
        finally:
            process.kill()
            await ended(process)
        process = await start(settings)
        try:
            await made.client().ready(deadline_ms=15_000)
            cluster = await made.client().cluster()
            assert (cluster["term"], cluster["phase"]) == (HEALTHY.term + 1, "failing_over")
            assert len(await made.client().incidents()) == 1
        finally:
            process.send_signal(signal.SIGTERM)
            code, said = await ended(process)
        assert code == 0, said


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda made, root: write_settings(made, root, colour="red"), "colour"),
        (lambda made, root: write_settings(made, root, policy={"probe_interval_ms": 900}), "within 1000 ms"),
        (lambda made, root: write_settings(made, root, store_path=str(root / "no" / "x.sqlite")), "look at its disk"),
        (lambda made, root: write_settings(made, root, token_file=str(root / "none")), "cannot read the secret"),
        (lambda made, root: root / "none.toml", "none.toml"),
    ],
)
async def test_what_stops_it_from_starting_is_said(
    tmp_path: Path, spoil: Callable[[Scene, Path], Path], words: str
) -> None:
    async with scene(tmp_path) as made:
        code, said = await ended(await start(spoil(made, tmp_path)))
        assert code == 1
        assert words in said
        assert "Traceback" not in said


async def test_an_occupied_port_is_said(tmp_path: Path) -> None:
    async with scene(tmp_path) as made:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", made.settings.listen_port))
            taken.listen()
            code, said = await ended(await start(write_settings(made, tmp_path)))
        assert (code, "in use by another process" in said, "Traceback" in said) == (1, True, False), said
