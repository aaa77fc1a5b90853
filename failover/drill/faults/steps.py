"""One step of a scenario on a running cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from failover.drill.cluster import Cluster
from failover.drill.errors import ClusterAway, NotInjected, Skipped
from failover.drill.faultfs.client import FaultFsAway, FaultFsClient
from failover.drill.faultfs.spec import parse_fault
from failover.drill.scenario import Disk, Links, Operator, PowerLoss, Signal, Step

_STRIKES_WITHIN_S = 15.0
_SOCKET_S = 5.0
_TITLES = {
    "walsender": "walsender",
    "walreceiver": "walreceiver",
    "checkpointer": "checkpointer",
    "startup": "startup",
    "backend": "locum_server locum",
}
_LINE_BYTES_MAX = 1 << 20
_EVICT = """
SELECT count(pg_buffercache_evict(bufferid)) FROM pg_buffercache WHERE relfilenode = pg_relation_filenode($1::regclass)
"""


class Injector:
    """Makes the steps, and heals all of them at the end. Roles are those that the nodes had when the drill began.

    Raises NotInjected, Skipped, ClusterAway.
    """

    def __init__(self, cluster: Cluster, primary: str, standby: str) -> None:
        self.told: list[str] = []
        """What was injected, in words, with file and block where a disk was struck."""
        self._cluster = cluster
        self._nodes = {"primary": primary, "standby": standby}
        self._stopped: list[int] = []
        self._disks: dict[str, FaultFsClient] = {}
        self._has_cut = False

    async def make(self, step: Step) -> None:
        """One step."""
        match step:
            case Signal():
                await asyncio.to_thread(self._signal, step)
            case Disk():
                await self._fault(step)
            case Links():
                await self._cut(step)
            case Operator():
                view = await self._cluster.view()
                await self._cluster.post("/v1/switchover", {"expected_term": view["term"], "reason": "drill"})
                self.told.append("switchover asked for")
            case PowerLoss():
                await asyncio.to_thread(self._lose_power, step)

    async def heal(self) -> None:
        """End whatever lasts. What was killed stays killed: the cluster has to deal with it."""
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._stopped.clear()
        for disk in self._disks.values():
            with contextlib.suppress(FaultFsAway):  # its process died, and its faults with it
                await asyncio.to_thread(disk.disarm)
        if self._has_cut:
            await self._link({"state": "open"}, None)

    def _signal(self, step: Signal) -> None:
        number = signal.Signals[f"SIG{step.signal}"]
        for target in step.to:
            pids = self._pids(target)
            if number is signal.SIGKILL:  # nobody is born while they die
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pids[0], signal.SIGSTOP)
                pids = self._pids(target)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if number is signal.SIGSTOP:
                self._stopped += pids
            self.told.append(f"SIG{step.signal} to {target}, {len(pids)} processes")

    def _pids(self, target: str) -> list[int]:
        kind, _, role = target.partition(" ")
        node = self._nodes.get(role, role)
        if kind == "postgres":
            postmaster = self._cluster.postmaster(node)
            return [postmaster, *_children_of(postmaster)]
        if kind in _TITLES:
            return [_titled(self._cluster.postmaster(node), _TITLES[kind])]
        if kind == "disk":
            recorded = msgspec.json.decode((self._cluster.data / "pids.json").read_bytes())
            return [int(recorded[f"faultfs-{node}"]["pid"])]
        return [self._cluster.pid(f"{kind} {node}".strip())]

    async def _fault(self, step: Disk) -> None:
        node = self._nodes[step.node]
        disk = self._disk(node)
        wanted = step.fault
        if step.table is not None:
            async with self._cluster.sql(node) as connection:
                wanted = {**wanted, "path": await connection.fetchval("SELECT pg_relation_filepath($1)", step.table)}
        before = len(await asyncio.to_thread(disk.fired))
        await asyncio.to_thread(disk.arm, parse_fault(wanted))
        if step.table is not None:
            await self._evict(node, step.table)
        provoking = asyncio.create_task(self._checkpoint(node))
        try:
            await self._until_it_strikes(disk, before)
        finally:
            provoking.cancel()
            await asyncio.wait({provoking})

    async def _checkpoint(self, node: str) -> None:
        """Tables and pg_xact are written and synced by checkpoints only, minutes apart: without one the fault would wait."""
        for where in dict.fromkeys((self._nodes["primary"], node)):  # a standby has nothing to do without its primary's
            with contextlib.suppress(ClusterAway):
                async with self._cluster.sql(where) as connection:
                    await connection.execute("CHECKPOINT")

    async def _evict(self, node: str, table: str) -> None:
        async with self._cluster.sql(node) as connection:
            if connection.get_server_version().major < 17:
                raise Skipped("needs PostgreSQL 17 or newer: an older one reads no page again while it runs")
            with contextlib.suppress(asyncpg.PostgresError):  # the fault may strike this very session
                await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_buffercache")
                await connection.fetchval(_EVICT, table)

    async def _until_it_strikes(self, disk: FaultFsClient, before: int) -> None:
        """A fault counts as injected when it has struck something that was there."""
        until_s = time.monotonic() + _STRIKES_WITHIN_S
        while time.monotonic() < until_s:
            struck = [fired for fired in (await asyncio.to_thread(disk.fired))[before:] if fired["existed"]]
            if struck:
                one = struck[0]
                self.told.append(f"{one['kind']} at {one['op']} of {one['path']}, block {one['block']}, at {one['at']}")
                return
            await asyncio.sleep(0.02)
        raise NotInjected(f"the fault did not strike within {_STRIKES_WITHIN_S:.0f} s")

    def _lose_power(self, step: PowerLoss) -> None:
        nodes = [self._nodes[node] for node in step.nodes]
        agents = [self._cluster.pid(f"agent {node}") for node in nodes]
        for pid in agents:  # so that nothing is started before the disk has forgotten
            os.kill(pid, signal.SIGSTOP)
        try:
            for node in nodes:
                self._signal(Signal(to=(f"postgres {node}",)))
            for node in nodes:
                lost = self._disk(node).lose_unsynced()
                self.told.append(f"{node} lost power, and {lost['blocks']} blocks of {lost['files']} files")
        finally:
            for pid in agents:
                os.kill(pid, signal.SIGCONT)

    def _disk(self, node: str) -> FaultFsClient:
        disk = self._cluster.disk(node)
        if disk is None:
            raise Skipped("needs a cluster that was started with --faultfs")
        self._disks[node] = disk
        return disk

    async def _cut(self, step: Links) -> None:
        one, other = ([self._end(end) for end in side] for side in (step.one, step.other))
        links = await self._links()
        named = {f"{source}-{target}" for near in one for far in other for source, target in ((near, far), (far, near))}
        chosen = [name for name in links if name in named]
        if not chosen:
            raise NotInjected(
                f"there is no link between {', '.join(step.one)} and {', '.join(step.other)}: {', '.join(links)}"
            )
        for name in chosen:
            await self._link({"state": step.state}, name)
        self._has_cut = True
        self.told.append(f"{step.state}: {', '.join(chosen)}")

    def _end(self, end: str) -> str:
        kind, _, role = end.partition(" ")
        return f"{kind}-{self._nodes.get(role, role)}" if role else kind

    async def _links(self) -> list[str]:
        return list((await self._say({"command": "list"}))["links"])

    async def _link(self, change: dict[str, Any], name: str | None) -> None:
        for link in [name] if name is not None else await self._links():
            answer = await self._say({"link": link, **change})
            if "error" in answer:
                raise NotInjected(str(answer["error"]))

    async def _say(self, command: dict[str, Any]) -> dict[str, Any]:
        socket = self._cluster.ready.get("proxies")
        if socket is None:
            raise Skipped("needs a cluster that was started with --proxied")
        async with asyncio.timeout(_SOCKET_S):
            reader, writer = await asyncio.open_unix_connection(socket, limit=_LINE_BYTES_MAX)
            try:
                writer.write(msgspec.json.encode(command) + b"\n")
                answer: dict[str, Any] = msgspec.json.decode(await reader.readline())
            finally:
                writer.close()
        return answer


def _titled(postmaster: int, title: str) -> int:
    """The pid of one of its processes, by the title that it gives itself (ps_status.c). Raises NotInjected."""
    for pid in _children_of(postmaster):
        with contextlib.suppress(OSError):
            if title in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"):
                return pid
    raise NotInjected(f"PostgreSQL has no process with {title!r} in its title now")


def _children_of(pid: int) -> list[int]:
    """The direct children of a process (proc(5), /proc/PID/stat)."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                if int(fields[1]) == pid:
                    found.append(int(entry.name))
    return found
