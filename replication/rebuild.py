"""Replace the data directory by a base backup of the new primary, page checksums verified on the way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Callable

from replication import data_directory
from replication.actions import Rebuild
from replication.errors import ActionFailed
from replication.model import Reason
from replication.node import Node
from replication.postmaster import clean_environment
from replication.settings_file import replication_conninfo
from replication.threads import in_thread

_SILENCE_S = 60.0
_SYNC_S = 900.0
"""Having received everything it forces every file to the disk, and says nothing."""
_SPREAD_CHECKPOINT_S = 400.0
"""A spread checkpoint takes most of checkpoint_timeout (5 min) before the first byte comes."""
_PROGRESS = re.compile(rb"(\d+)/(\d+) kB")
_SAID_CHARS_MAX = 400
_LEFT_OVER = ("standby.signal", "recovery.signal", "promote", "fallback_promote", "postmaster.pid", "postmaster.opts")


async def rebuild(node: Node, op: Rebuild, progress: Callable[[float], None]) -> None:
    """Empty the data directory (the directory itself stays: it may be a mount point) and fill it by pg_basebackup.

    `progress` gets the fraction that has come, 0..1. The backup streams under `rebuild_<node>_<nonce>`, never under a
    name that counts, and its WAL through the slot that the standby will use. Cancelling kills the tool; what is there
    then is half-built, and the next rebuild empties it. Raises ActionFailed: CANNOT_ASK for an unknown source, DEADLINE
    when nothing came for a minute, FAILED with the tool's last words (a page whose checksum is wrong included).
    """
    peer = node.settings.peers.get(op.source)
    if peer is None:
        raise ActionFailed(Reason.CANNOT_ASK, f"the settings of node {node.name} name no peer {op.source!r}")
    await in_thread(_empty, node)
    name = f"rebuild_{node.name}_{op.nonce}"
    command = node.installation.command(
        "pg_basebackup",
        f"--pgdata={node.data_dir}",
        f"--dbname={replication_conninfo(node, peer.postgres_host, peer.postgres_port, name)}",
        "--wal-method=stream",
        f"--slot={op.slot}",
        f"--checkpoint={'fast' if op.fast_checkpoint else 'spread'}",
        "--progress",
        "--no-password",
    )
    await _run(command, progress, _SILENCE_S if op.fast_checkpoint else _SPREAD_CHECKPOINT_S)
    await in_thread(_tidy, node)
    progress(1.0)


def fraction(line: bytes) -> float | None:
    """How much has come, from one line of pg_basebackup's progress: `12345/67890 kB (18%), 0/1 tablespace`."""
    found = _PROGRESS.search(line)
    if found is None or int(found[2]) == 0:
        return None
    return min(1.0, int(found[1]) / int(found[2]))


async def _run(command: list[str], progress: Callable[[float], None], first_silence_s: float) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        env=clean_environment(),
        cwd="/",
    )
    try:
        said = await _follow(process, progress, first_silence_s)
        code = await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # it has a child that receives the WAL
            await asyncio.shield(process.wait())
    if code != 0:
        raise ActionFailed(Reason.FAILED, f"pg_basebackup failed with code {code}: {said}")


async def _follow(process: asyncio.subprocess.Process, progress: Callable[[float], None], silence_s: float) -> str:
    """Its last words that are not progress. Raises ActionFailed(DEADLINE)."""
    stream = process.stderr
    assert stream is not None  # noqa: S101  asked for above
    words = b""
    while True:
        try:
            async with asyncio.timeout(silence_s):
                chunk = await stream.read(4096)
        except TimeoutError as error:
            raise ActionFailed(Reason.DEADLINE, f"pg_basebackup made no progress for {silence_s:g} s") from error
        if not chunk:
            return " ".join(words.decode(errors="replace").split())[-_SAID_CHARS_MAX:]
        for line in re.split(rb"[\r\n]+", chunk):
            share = fraction(line)
            if share is None:
                words = (words + b" " + line)[-4 * _SAID_CHARS_MAX :]
            else:
                silence_s = _SILENCE_S if share < 1 else _SYNC_S
                progress(share)


def _empty(node: Node) -> None:
    node.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    data_directory.empty(node.data_dir)
    node.data_dir.chmod(0o700)
    node.installation.own(node.data_dir)


def _tidy(node: Node) -> None:
    for name in _LEFT_OVER:
        (node.data_dir / name).unlink(missing_ok=True)
    (node.data_dir / "postgresql.auto.conf").write_text("", encoding="ascii")
    node.installation.own(node.data_dir)
