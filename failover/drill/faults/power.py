"""Nodes that die at once, and disks that lose what they had called written."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from failover.drill.cluster import Cluster
from failover.drill.errors import NotInjected
from failover.drill.faultfs.client import FaultFsClient
from failover.drill.faults.processes import children_of

_FLUSHED = "SELECT file_name, file_offset FROM pg_walfile_name_offset(pg_current_wal_flush_lsn())"


def kill_postgres(cluster: Cluster, node: str) -> list[int]:
    """All of its processes, by SIGKILL; nobody is born while they die. Raises ClusterAway when none runs."""
    postmaster = cluster.postmaster(node)
    with contextlib.suppress(ProcessLookupError):
        os.kill(postmaster, signal.SIGSTOP)
    pids = [postmaster, *children_of(postmaster)]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pids


def lose_unsynced(cluster: Cluster, disks: dict[str, FaultFsClient]) -> list[str]:
    """Power fails on these nodes: they die with all that they had not fsynced. What was lost, a sentence each."""
    told = []
    with _agents_stopped(cluster, disks):
        for node in disks:
            kill_postgres(cluster, node)
        for node, disk in disks.items():
            lost = disk.lose_unsynced()
            told.append(f"{node} lost power, and {lost['blocks']} blocks of {lost['files']} files")
    return told


async def lose_wal_tail(cluster: Cluster, primary: str, nodes: list[str], lost_kb: int) -> list[str]:
    """These nodes die, and the primary's disk lacks the end of its WAL: zeros where records were. Raises ClusterAway."""
    async with cluster.sql(primary) as connection:
        name, offset = await connection.fetchrow(_FLUSHED)
    wal = Path(cluster.ready["nodes"][primary]["data_dir"]) / "pg_wal"
    return await asyncio.to_thread(_kill_and_cut, cluster, nodes, wal / name, max(0, offset - lost_kb * 1024))


def _kill_and_cut(cluster: Cluster, nodes: list[str], segment: Path, keep_bytes: int) -> list[str]:
    with _agents_stopped(cluster, nodes):
        for node in nodes:
            kill_postgres(cluster, node)
        try:
            size = segment.stat().st_size
            lost = len(segment.read_bytes()[keep_bytes:].rstrip(b"\0"))
            with segment.open("r+b", buffering=0) as file:
                file.seek(keep_bytes)
                file.write(bytes(size - keep_bytes))
                os.fsync(file.fileno())
            for later in segment.parent.iterdir():
                if len(later.name) == len(segment.name) and later.name > segment.name:
                    later.unlink()
        except OSError as error:
            raise NotInjected(f"{segment.name} cannot be cut: {error.strerror}") from error
    return [f"{', '.join(nodes)} died, and {lost} bytes of WAL from {keep_bytes} of {segment.name} on are gone"]


@contextmanager
def _agents_stopped(cluster: Cluster, nodes: Iterable[str]) -> Iterator[None]:
    """So that nothing is started before the disk has forgotten."""
    agents = [cluster.pid(f"agent {node}") for node in nodes]
    for pid in agents:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in agents:
            os.kill(pid, signal.SIGCONT)
