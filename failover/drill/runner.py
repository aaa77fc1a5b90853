"""One scenario from an empty directory to a verdict: cluster, load, fault, healing, judgement."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from failover.drill.checker import Finding, Kind, check
from failover.drill.clinic import Clinic
from failover.drill.cluster import Cluster
from failover.drill.errors import ClusterAway, DrillError, Skipped, Unreadable
from failover.drill.faultfs.launch import why_no_fuse
from failover.drill.faults.steps import Injector
from failover.drill.history import HistoryWriter
from failover.drill.judge import Measured, Result, failed, gap_ms, objections, slowest_ms
from failover.drill.leftovers import Journal
from failover.drill.scenario import Scenario
from failover.drill.target import Target
from failover.drill.throw_away import ThrowAway
from failover.drill.watch import Watch
from failover.drill.workload import Workload

_CLINIC = ("--demo-practitioners", "40")
_DAYS = 13
_DRAINED_S = 45.0
_PRIMARY_AWAY_S = 1.0
_STANDBY_CAUGHT_UP_S = 30.0
Tell = Callable[[str], None]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one scenario. `timeline`: (seconds since the start, what)."""

    scenario: Scenario
    seed: int
    began_at: str
    took_s: float
    result: Result
    said: tuple[str, ...]
    """Objections, or why it was skipped or broke down."""
    injected: tuple[str, ...] = ()
    healed: tuple[str, ...] = ()
    """What wrote over all of the damage before anybody read it, when nothing of it was left at the end."""
    measured: Measured | None = None
    findings: tuple[Finding, ...] = ()
    timeline: tuple[tuple[float, str], ...] = ()
    history: str | None = None
    """The file of what clients were told."""


class _Drill:
    """The state of one run."""

    def __init__(self, scenario: Scenario, place: Path, seed: int, tell: Tell, against: Target | None) -> None:
        self.scenario = scenario
        self.against = against
        self._journal = Journal()
        self._before: frozenset[str] = frozenset()
        self._incidents_before = 0
        self._watch: Watch | None = None
        self._fell_ill = False
        self.place = place
        self.seed = seed
        self.injected: list[str] = []
        self.healed: list[str] = []
        self.timeline: list[tuple[float, str]] = []
        self._tell = tell
        self._began_s = time.monotonic()

    def note(self, what: str) -> None:
        self.timeline.append((round(time.monotonic() - self._began_s, 3), what))
        self._tell(what)

    async def run(self) -> tuple[Measured, list[Finding]]:
        """Raises DrillError when the drill itself breaks down."""
        cluster = self._cluster()
        try:
            await cluster.start()
            return await self._under_load(cluster)
        finally:
            await cluster.stop()
            self._journal.close()

    def _cluster(self) -> Cluster:
        if self.against is not None:
            self.note("looking at the deployment")
            self._journal.against(Path(self.against.ready_file))
            return Cluster(Path(self.against.ready_file))
        flags = (
            *_CLINIC,
            *(("--faultfs",) if self.scenario.needs_fuse else ()),
            *(("--proxied",) if self.scenario.needs_proxies else ()),
        )
        self.note("starting a cluster of its own")
        is_temporary = Path(tempfile.gettempdir()) in self.place.parents

        def launched(pid: int) -> None:
            self._journal.own_cluster(self.place / "data", pid, is_temporary=is_temporary)

        return ThrowAway(self.place, flags, launched)

    async def _under_load(self, cluster: Cluster) -> tuple[Measured, list[Finding]]:
        view = await cluster.view()
        primary = str(view["primary"])
        standby = next(name for name in view["nodes"] if name != primary)
        self._before = frozenset(await cluster.rows(primary))
        self._incidents_before = len(await cluster.incidents())
        async with aiohttp.ClientSession() as session:
            proposals = await Clinic(session, cluster.ready["server"]).proposals(_DAYS)
        history = HistoryWriter(self.place / "history.jsonl")
        load = self.scenario.load
        run = "" if self.against is None else secrets.token_hex(4)
        workload = Workload(cluster.ready["server"], proposals, history, seed=self.seed, rate=load.rate, run=run)
        injector = Injector(cluster, primary, standby, self.seed, self._journal.stopping)
        running = asyncio.create_task(workload.run())
        self._watch = watch = Watch(cluster, self._incidents_before)
        watching: asyncio.Task[None] | None = None
        try:
            await _sleep_while(running, load.before_s)
            self.note(f"healthy, {workload.acknowledged} writes acknowledged: primary {primary}, standby {standby}")
            since_s = time.monotonic()
            watching = asyncio.create_task(watch.run(since_s))
            await self._inject(injector, since_s)
            await _sleep_while(running, load.lasts_s)
            await self._until_named(watch, injector, since_s)
            self.healed = await injector.healed()
            await injector.heal()
            healed_s = time.monotonic()
            self.note("healed")
            healthy_again_s = await self._healthy_again(cluster, healed_s)
            if not self.scenario.expect.stops:
                await _sleep_while(running, 1.0)
        finally:
            if watching is not None:
                watching.cancel()
            self.injected = injector.told
            workload.stop()
            await injector.heal()
            await asyncio.wait({running}, timeout=_DRAINED_S)
            running.cancel()
            history.close()
        return await self._measure(cluster, workload, primary, since_s, healthy_again_s)

    async def _until_named(self, watch: Watch, injector: Injector, since_s: float) -> None:
        expect, turns = self.scenario.expect, 1
        until_s = since_s + expect.named_within_s
        while expect.checkpoint_every_s and (next_s := since_s + turns * expect.checkpoint_every_s) < until_s:
            await watch.until_named(next_s - time.monotonic())
            if watch.named_s is not None:
                return
            await injector.checkpoint()
            self.note("a checkpoint on both nodes")
            turns += 1
        await watch.until_named(until_s - time.monotonic())

    async def _inject(self, injector: Injector, began_s: float) -> None:
        for step in sorted(self.scenario.steps, key=lambda one: one.at_s):
            await asyncio.sleep(max(0.0, began_s + step.at_s - time.monotonic()))
            told = len(injector.told)
            await injector.make(step)
            for what in injector.told[told:]:
                self.note(what)

    async def _healthy_again(self, cluster: Cluster, healed_s: float) -> float | None:
        """How long it took to be as it must be in the end; None when it did not."""
        wanted = "no_primary" if self.scenario.expect.stops else "healthy"
        try:
            await cluster.until(lambda view: _is_settled(view, wanted), self.scenario.expect.healthy_within_s)
        except ClusterAway as error:
            self.note(f"not healthy again: {error}")
            return None
        took_s = time.monotonic() - healed_s
        self.note(f"{wanted.replace('_', ' ')} {took_s:.1f} s after the healing")
        return round(took_s, 1)

    async def _measure(
        self, cluster: Cluster, workload: Workload, primary: str, since_s: float, healthy_again_s: float | None
    ) -> tuple[Measured, list[Finding]]:
        view = await cluster.view()
        findings = await self._findings(cluster, workload, view, both=healthy_again_s is not None)
        if self._fell_ill:
            view, healthy_again_s = await cluster.view(), None
        verdicts = [incident.get("verdict") for incident in (await cluster.incidents())[self._incidents_before :]]
        measured = Measured(
            operations=len(workload.operations),
            acknowledged=workload.acknowledged,
            failed=failed(workload.operations),
            gap_ms=gap_ms(workload.operations, since_s),
            slowest_ms=slowest_ms(workload.operations),
            lost_writes=sum(finding.kind is Kind.LOST for finding in findings),
            verdicts=tuple(dict.fromkeys(_kind(verdict) for verdict in verdicts if verdict)),
            blamed=tuple(dict.fromkeys(_blamed(verdict, primary) for verdict in verdicts if isinstance(verdict, dict))),
            new_primary=view["primary"] != primary,
            healthy_again_s=healthy_again_s,
            named_after_s=self._watch.named_s if self._watch is not None else None,
            suspected_after_s=self._watch.suspected_s if self._watch is not None else None,
        )
        return measured, findings

    async def _findings(
        self, cluster: Cluster, workload: Workload, view: dict[str, Any], *, both: bool, tries: int = 3
    ) -> list[Finding]:
        if view["phase"] == "no_primary" and self.scenario.expect.stops:
            return []  # nobody is served: nothing was shown to anybody
        try:
            rows = await cluster.rows(view["primary"])
            own = {name: row for name, row in rows.items() if name not in self._before}
            findings = check(workload.operations, own)
            return findings + (await self._differences(cluster, view) if both else [])
        except Unreadable as error:
            return [Finding(Kind.UNREADABLE, "all", str(error))]
        except ClusterAway as error:
            if not both:
                return [Finding(Kind.UNREADABLE, "all", f"nobody serves in the end: {error}")]
            await asyncio.sleep(_PRIMARY_AWAY_S)  # it is being replaced just now
            self._fell_ill = not tries or await self._healthy_again(cluster, time.monotonic()) is None
            view = await cluster.view()
            return await self._findings(cluster, workload, view, both=not self._fell_ill, tries=tries - 1)

    async def _differences(self, cluster: Cluster, view: dict[str, Any]) -> list[Finding]:
        """Nobody books any more: in a moment both nodes hold the same rows."""
        nodes = sorted(view["nodes"])
        until_s = time.monotonic() + _STANDBY_CAUGHT_UP_S
        while True:
            one, other = [await cluster.rows(node) for node in nodes]
            if one == other:
                return []
            if time.monotonic() > until_s:
                names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
                return [
                    Finding(Kind.WRONG_CONTENT, name, f"{nodes[0]} and {nodes[1]} do not hold the same")
                    for name in names
                ]
            await asyncio.sleep(0.1)


def _is_settled(view: dict[str, Any], wanted: str) -> bool:
    """As it must be in the end, and nothing is under way that would change it. An incident with losses waits for a person."""
    waits = any(alarm["name"] == "receipts_lost" for alarm in view["alarms"])
    return view["phase"] == wanted and (wanted != "healthy" or view["open_incident"] is None or waits)


def _kind(verdict: object) -> str:
    """An incident list gives verdicts whole, or as their kind."""
    return str(verdict.get("kind")) if isinstance(verdict, dict) else str(verdict)


def _blamed(verdict: dict[str, Any], primary: str) -> tuple[str, str]:
    return str(verdict["kind"]), "primary" if verdict.get("node") == primary else "standby"


async def _sleep_while(running: asyncio.Task[None], seconds: float) -> None:
    """For so long, unless the workload ends: then there is nothing to measure. Raises DrillError."""
    await asyncio.wait({running}, timeout=seconds)
    if running.done():
        running.result()
        raise DrillError("the workload ran out of free slots; use a lower rate")


async def run_scenario(
    scenario: Scenario, place: Path, *, seed: int, tell: Tell, against: Target | None = None
) -> Report:
    """Run it in an empty directory, on a cluster of its own or `against` another.

    Whatever goes wrong with the drill itself is *unknown*, never a pass.
    """
    began_s, began_at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    drill = _Drill(scenario, place, seed, tell, against)
    measured: Measured | None = None
    findings: list[Finding] = []
    why = why_no_fuse() if scenario.needs_fuse and against is None else None
    try:
        if against is not None:
            against.check(scenario)
        if why is not None:
            raise Skipped(why)
        await asyncio.to_thread(place.mkdir, parents=True)
        await asyncio.to_thread(place.chmod, 0o755)
        measured, findings = await drill.run()
        said = objections(scenario.expect, measured, findings)
        result = Result.FAILED if said else Result.PASSED
    except Skipped as error:
        said, result = [str(error)], Result.SKIPPED
    except (DrillError, OSError, KeyError, ValueError, ExceptionGroup) as error:
        said, result = [f"the drill itself broke down: {error!r}"], Result.UNKNOWN
    return Report(
        scenario=scenario,
        seed=seed,
        began_at=began_at,
        took_s=round(time.monotonic() - began_s, 1),
        result=result,
        said=tuple(said),
        injected=tuple(drill.injected),
        healed=tuple(drill.healed),
        measured=measured,
        findings=tuple(findings),
        timeline=tuple(drill.timeline),
        history=str(place / "history.jsonl") if measured is not None else None,
    )
