"""One step of a scenario on a running cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec

from failover.drill.cluster import Cluster
from failover.drill.errors import ClusterAway, NotInjected, Skipped
from failover.drill.faultfs.client import FaultFsAway, FaultFsClient
from failover.drill.faultfs.spec import parse_fault
from failover.drill.faults import power
from failover.drill.faults.damage import LOUD, Damage
from failover.drill.faults.files import FileFaults
from failover.drill.faults.healed import counts, healed
from failover.drill.faults.links import list_links, open_links, set_link
from failover.drill.faults.live_files import LiveFiles
from failover.drill.faults.planted import Planted
from failover.drill.faults.processes import children_of
from failover.drill.faults.shared_memory import flip_bit
from failover.drill.scenario import Clock, Disk, Files, Links, Operator, PowerLoss, Signal, Sql, Step, WalTail

_STRIKES_WITHIN_S = 15.0
_CHECKPOINT_EVERY_S = 1.0
_CHECKPOINT_S = 10.0
_TITLES = {
    "walsender": "walsender",
    "walreceiver": "walreceiver",
    "checkpointer": "checkpointer",
    "startup": "startup",
    "backend": "locum_server locum",
}


class Injector:
    """Makes the steps, and heals all of them at the end. Roles are those that the nodes had when the drill began.

    `stopping` is told which processes are about to be stopped. Raises NotInjected, Skipped, ClusterAway.
    """

    def __init__(
        self, cluster: Cluster, primary: str, standby: str, seed: int, stopping: Callable[[list[int]], None]
    ) -> None:
        self.told: list[str] = []
        """What was injected, in words, with file and block where a disk was struck."""
        self._cluster = cluster
        self._stopping = stopping
        self._nodes = {"primary": primary, "standby": standby}
        self._stopped: list[int] = []
        self._disks: dict[str, FaultFsClient] = {}
        self._struck: list[tuple[FaultFsClient, int]] = []
        self._planted: list[Planted] = []
        self._jobs: list[asyncio.Task[None]] = []
        self._has_cut = False
        self._has_jumped: set[str] = set()
        self._random = Random(seed)  # noqa: S311  to be repeatable, not secret

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
                disks = {name: self._disk(name) for name in (self._nodes[node] for node in step.nodes)}
                self.told += await asyncio.to_thread(power.lose_unsynced, self._cluster, disks)
            case WalTail():
                self.told += await power.lose_wal_tail(
                    self._cluster, self._nodes[step.node], [self._nodes[node] for node in step.kill], step.lost_kb
                )
            case Files():
                await self._damage(step)
            case Clock():
                await self._jump(step)
            case Sql():
                self._jobs.append(asyncio.create_task(self._work(step)))
                self.told.append(f"on {self._nodes[step.node]}: {step.statement}")

    async def heal(self) -> None:
        """End whatever lasts. What was killed stays killed: the cluster has to deal with it."""
        for job in self._jobs:
            job.cancel()
        if self._jobs:
            await asyncio.wait(self._jobs)
            self._jobs.clear()
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._stopped.clear()
        for disk in self._disks.values():
            with contextlib.suppress(FaultFsAway):  # its process died, and its faults with it
                await asyncio.to_thread(disk.disarm)
        if self._has_cut:
            with contextlib.suppress(ClusterAway):
                await open_links(self._cluster)
        for node in self._has_jumped:
            with contextlib.suppress(ClusterAway):
                await self._cluster.set_clock(node, 0)
        self._has_jumped.clear()

    async def checkpoint(self) -> None:
        """On both nodes, as far as they are there and come through with it in a moment."""
        files = LiveFiles(self._cluster, self._nodes["standby"], self._nodes["primary"])
        with contextlib.suppress(ClusterAway, TimeoutError):
            async with asyncio.timeout(_CHECKPOINT_S):
                await files.checkpoint()

    async def healed(self) -> list[str]:
        """What healed the damage that was done to disks and files; empty while any of it is left, or nothing was damaged."""
        return await asyncio.to_thread(healed, self._struck, self._planted)

    def _signal(self, step: Signal) -> None:
        number = signal.Signals[f"SIG{step.signal}"]
        for target in step.to:
            if target.startswith("postgres ") and number is signal.SIGKILL:
                pids = self._killed(self._node_of(target))
            else:
                pids = self._pids(target)
                if number is signal.SIGSTOP:
                    self._stopping(pids)
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            if number is signal.SIGSTOP:
                self._stopped += pids
            self.told.append(f"SIG{step.signal} to {target}, {len(pids)} processes")

    def _killed(self, node: str) -> list[int]:
        """Those of a node's PostgreSQL; none, where what struck before has ended it already."""
        try:
            return power.kill_postgres(self._cluster, node)
        except ClusterAway:
            return []

    def _pids(self, target: str) -> list[int]:
        kind, node = target.partition(" ")[0], self._node_of(target)
        if kind == "postgres":
            try:
                postmaster = self._cluster.postmaster(node)
            except ClusterAway:
                return []  # what struck before has ended it already
            return [postmaster, *children_of(postmaster)]
        if kind in _TITLES:
            return [_titled(self._cluster.postmaster(node), _TITLES[kind])]
        if kind == "disk":
            recorded = msgspec.json.decode((self._cluster.root / "pids.json").read_bytes())
            return [int(recorded[f"faultfs-{node}"]["pid"])]
        return [self._cluster.pid(f"{kind} {node}".strip())]

    def _node_of(self, target: str) -> str:
        role = target.partition(" ")[2]
        return self._nodes.get(role, role)

    async def _fault(self, step: Disk) -> None:
        node = self._nodes[step.node]
        disk = self._disk(node)
        wanted = step.fault
        if step.table is not None:
            async with self._cluster.sql(node) as connection:
                wanted = {**wanted, "path": await connection.fetchval("SELECT pg_relation_filepath($1)", step.table)}
            await LiveFiles(self._cluster, node, self._nodes["primary"]).can_evict()
        before = len(await asyncio.to_thread(disk.fired))
        await asyncio.to_thread(disk.arm, parse_fault(wanted))
        self._struck.append((disk, before))
        if step.table is not None:
            await self._evict(node, step.table)
        provoking = asyncio.create_task(self._checkpoint(node))
        try:
            await self._until_it_strikes(disk, before)
        finally:
            provoking.cancel()
            await asyncio.wait({provoking})

    async def _checkpoint(self, node: str) -> None:
        """Tables and pg_xact are written and synced by checkpoints only, minutes apart: without one the fault would wait.

        A standby makes a restartpoint only once it has replayed its primary's checkpoint, so: again and again.
        """
        files = LiveFiles(self._cluster, node, self._nodes["primary"])
        while True:
            with contextlib.suppress(ClusterAway):
                await files.checkpoint()
            await asyncio.sleep(_CHECKPOINT_EVERY_S)

    async def _evict(self, node: str, table: str) -> None:
        """So that it is read again. The reading may strike this very session."""
        with contextlib.suppress(ClusterAway):
            await LiveFiles(self._cluster, node, self._nodes["primary"]).evict(table)

    async def _until_it_strikes(self, disk: FaultFsClient, before: int) -> None:
        """A fault counts as injected when it has struck. One that spoils a block in its place must have struck one that was there."""
        until_s = time.monotonic() + _STRIKES_WITHIN_S
        while time.monotonic() < until_s:
            struck = [one for one in (await asyncio.to_thread(disk.fired))[before:] if counts(one)]
            if struck:
                one = struck[0]
                self.told.append(f"{one['kind']} at {one['op']} of {one['path']}, block {one['block']}, at {one['at']}")
                return
            await asyncio.sleep(0.02)
        raise NotInjected(f"the fault did not strike within {_STRIKES_WITHIN_S:.0f} s")

    async def _damage(self, step: Files) -> None:
        node = self._nodes[step.node]
        files = LiveFiles(self._cluster, node, self._nodes["primary"])
        if step.damage is Damage.MEMORY_BIT:
            self.told.append(await flip_bit(files, self._cluster.postmaster(node), step.relation, self._random))
            return
        faults = FileFaults(files, self._random)
        self.told.append(await faults.make(step.damage, step.relation))
        self._planted += faults.planted
        if step.damage in LOUD:
            said = await files.look(step.relation)
            self.told.append(f"node {node} was made to read it, and said {said or 'nothing'}")

    async def _work(self, step: Sql) -> None:
        with contextlib.suppress(ClusterAway):  # the node may die of what comes next
            async with self._cluster.sql(self._nodes[step.node]) as connection:
                await connection.execute(step.statement)

    async def _jump(self, step: Clock) -> None:
        node = self._nodes[step.node]
        self._has_jumped.add(node)
        now = await self._cluster.set_clock(node, step.offset_ms)
        self.told.append(f"the agent of {node} believes it is {now}")

    def _disk(self, node: str) -> FaultFsClient:
        disk = self._cluster.disk(node)
        if disk is None:
            raise Skipped("needs a cluster that was started with --faultfs")
        self._disks[node] = disk
        return disk

    async def _cut(self, step: Links) -> None:
        one, other = ([self._end(end) for end in side] for side in (step.one, step.other))
        links = await list_links(self._cluster)
        named = {f"{source}-{target}" for near in one for far in other for source, target in ((near, far), (far, near))}
        chosen = [name for name in links if name in named]
        if not chosen:
            raise NotInjected(
                f"there is no link between {', '.join(step.one)} and {', '.join(step.other)}: {', '.join(links)}"
            )
        for name in chosen:
            await set_link(self._cluster, name, step.state)
        self._has_cut = True
        self.told.append(f"{step.state}: {', '.join(chosen)}")

    def _end(self, end: str) -> str:
        kind, _, role = end.partition(" ")
        return f"{kind}-{self._nodes.get(role, role)}" if role else kind


def _titled(postmaster: int, title: str) -> int:
    """The pid of one of its processes, by the title that it gives itself (ps_status.c). Raises NotInjected."""
    for pid in children_of(postmaster):
        with contextlib.suppress(OSError):
            if title in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"):
                return pid
    raise NotInjected(f"PostgreSQL has no process with {title!r} in its title now")
