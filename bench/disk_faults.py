"""The rows of bench/outage.py in which a disk fails: the cluster's disks, and the floor's, are file systems of ours (faultfs)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from bench.floor import measure_floor
from failover.drill.faultfs.client import FaultFsClient
from failover.drill.faultfs.spec import Fault as DiskFault
from failover.drill.faultfs.spec import Files, Kind, Op
from replication.installation import Installation
from tests.acceptance.cluster import Cluster
from tests.acceptance.faults import Fault
from tests.integration.drill.mounts import mounted

_EVICT = """
SELECT count(pg_buffercache_evict(bufferid)) FROM pg_buffercache WHERE relfilenode = pg_relation_filenode('appointment')
"""


async def floor_on_faultfs(installation: Installation, place: Path) -> float:
    """What PostgreSQL alone needs when both of its nodes lie on such file systems. Needs FUSE."""
    await asyncio.to_thread(_folders, place)
    with mounted(place / "primary") as one, mounted(place / "standby") as other:
        return await measure_floor(installation, place, disks=(one.path, other.path))


def _folders(place: Path) -> None:
    place.mkdir(parents=True)
    place.chmod(0o755)
    for name in ("primary", "standby"):
        (place / name).mkdir()


def disk(cluster: Cluster, node: str) -> FaultFsClient:
    """How a node's disk is steered."""
    socket = cluster.ready.nodes[node].faultfs
    assert socket is not None, "the cluster was not started with --faultfs"
    return FaultFsClient(Path(socket))


async def _arm(cluster: Cluster, node: str, fault: DiskFault) -> float:
    began = time.monotonic()
    await asyncio.to_thread(disk(cluster, node).arm, fault)
    return began


async def heal(cluster: Cluster, node: str) -> None:
    """Take all its faults back."""
    await asyncio.to_thread(disk(cluster, node).disarm)


async def eio_on_data(cluster: Cluster, primary: str) -> float:
    """Reads of the bookings fail; the clock begins when a booking is read."""
    async with cluster.sql(primary) as connection:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_buffercache")
        await connection.execute("CHECKPOINT")
        path = await connection.fetchval("SELECT pg_relation_filepath('appointment')")
        began = await _arm(cluster, primary, DiskFault(kind=Kind.EIO, op=Op.READ, path=path))
        await connection.fetchval(_EVICT)
    return began


async def eio_on_wal(cluster: Cluster, primary: str) -> float:
    """Writes of WAL fail."""
    return await _arm(cluster, primary, DiskFault(kind=Kind.EIO, op=Op.WRITE, files=Files.WAL))


async def fsync_lies(cluster: Cluster, primary: str) -> float:
    """An fsync fails once, and the ones after it say that all is well."""
    return await _arm(cluster, primary, DiskFault(kind=Kind.FSYNC_LIES, op=Op.FSYNC, files=Files.WAL))


async def stall(cluster: Cluster, primary: str) -> float:
    """Nothing comes back."""
    return await _arm(cluster, primary, DiskFault(kind=Kind.STALL))


EIO_ON_DATA = Fault("EIO on reading data", eio_on_data, "storage_error", heal)
EIO_ON_WAL = Fault("EIO on writing WAL", eio_on_wal, "storage_error", heal)
FSYNC_LIES = Fault("fsync fails once, then lies", fsync_lies, "storage_error", heal)
STALL = Fault("stalled disk", stall, "storage_stalled", heal)
DISK_FAULTS = (EIO_ON_DATA, EIO_ON_WAL, FSYNC_LIES, STALL)
