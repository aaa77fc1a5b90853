"""The loop: observe, decide, store, act, publish. One tick at a time, every probe interval and at every event."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import structlog

from failover import incidents
from failover.actuator import Actuator
from failover.agent_watch import AgentWatch
from failover.alarms import AlarmBook, Standing, standing
from failover.clock import ClusterClock, LoopLag
from failover.cluster_view import ClusterView, cluster_view
from failover.core import view
from failover.core.decide import decide
from failover.core.failing_over import is_journalled_promotion
from failover.core.invariants import InvariantViolation
from failover.core.model import Command, Decision, Observation, Reply, State
from failover.errors import StateConflict, StoreError
from failover.leases import Leases
from failover.observer import Observer, wall_clock
from failover.storage_trend import StorageTrend
from failover.store.base import JournalEntry, Store
from replication import topology

if TYPE_CHECKING:
    from failover.controller import Controller

_log = structlog.get_logger()

_TRANSITION_INTERVAL_MS = 40
"""While clients wait for a promotion: what no event tells (replay has reached the shutdown record) is asked for."""
_CLIENTS_FIRST_S = 0.1
"""After a promotion nothing is looked at for so long: clients need all the machine has."""


class Loop:
    """What a leading controller knows and does. Everything it starts lives in `tasks`."""

    def __init__(self, controller: Controller, store: Store, state: State, tasks: asyncio.TaskGroup) -> None:
        self.state = state
        self.observation: Observation | None = None
        self.store = store
        self._controller = controller
        self._policy = controller.settings.policy
        self._woken = asyncio.Event()
        self._lag = LoopLag()
        self._clock = ClusterClock(state.now_ms)
        self._tasks = tasks
        self._watches = {
            name: AgentWatch(name, client, self._policy, self._lag, self.wake)
            for name, client in controller.agents.items()
        }
        self._observer = Observer(self._watches, controller.servers, self._clock, self._lag, self._policy, tasks)
        self._leases = Leases(controller.agents, self._policy, tasks)
        self._actuator = Actuator(controller.agents, controller.receipts, controller.metrics, tasks, self.wake)
        self._alarms = AlarmBook()
        self._trends = {name: StorageTrend() for name in state.nodes}
        self._trouble: Standing | None = None
        self._published: bytes | None = None
        self._outage_open = False
        self._promoted = False
        self._last_kind = ""

    async def run(self) -> None:
        """Tick until cancelled. Raises StateConflict when another controller has written."""
        if self.state.incident is not None:
            self._outage_open = incidents.has_open_outage(await self.store.incident_events(self.state.incident))
        self._tasks.create_task(self._lag.run(), name="loop-lag")
        for watch in self._watches.values():
            self._tasks.create_task(watch.follow(), name=f"follow-{watch.name}")
        while True:
            began = time.monotonic()
            self._woken.clear()
            await self._tick(self._controller.desk.next())
            if self._promoted:
                self._promoted = False
                await asyncio.sleep(_CLIENTS_FIRST_S)
            due = began + self._interval_ms() / 1000
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - time.monotonic())):
                    await self._woken.wait()

    def _interval_ms(self) -> int:
        interval_ms = self._policy.probe_interval_ms
        return min(interval_ms, _TRANSITION_INTERVAL_MS) if self.state.transition is not None else interval_ms

    def wake(self) -> None:
        """Tick now, or once more right after the tick under way."""
        self._woken.set()

    def shown(self) -> ClusterView | None:
        """`GET /v1/cluster`; None before the first round."""
        if self.observation is None:
            return None
        full_in_s = {name: trend.full_in_s() for name, trend in self._trends.items()}
        return cluster_view(self.state, self.observation, self._policy, self._alarms.raised, full_in_s)

    async def _tick(self, commands: tuple[Command, ...]) -> None:
        with self._controller.metrics.round_seconds.time():
            observation = await self._observer.observe(self.state.primary, commands, self._actuator.refused)
        before = self.state
        self._trouble = None
        try:
            after, decision = decide(before, observation, self._policy)
            if is_journalled_promotion(before, after):
                # Term and candidate were stored when it began: a controller that dies now finds the same out again.
                self._publish(after, observation)
                self._promoted = True
            if after is not before:
                await self._save(before, after, observation, decision)
        except InvariantViolation as error:
            self._note_trouble("invariant", f"The core refused to break a safety rule: {error}", commands)
        except StateConflict:
            raise
        except StoreError as error:
            self._note_trouble("store", str(error), commands)
        else:
            self.state = after
            self._actuator.send(decision.actions)
            self._tell(before, decision)
            self._leases.renew(after, observation)
        self.observation = observation
        record = self._publish(self.state, observation)
        self._ring(observation, record.phase)
        if self._outage_open and record.primary is not None and self.state.transition is None:
            await self._end_outage(record.primary.name)

    async def _save(self, before: State, after: State, observation: Observation, decision: Decision) -> None:
        lines = incidents.lines_of(before, after, decision, observation)
        entry = JournalEntry(after.revision, observation, decision)
        with self._controller.metrics.save_seconds.time():
            await self.store.save(after, before.revision, entry, lines)
        self._outage_open = self._outage_open or incidents.has_open_outage(lines)

    def _tell(self, before: State, decision: Decision) -> None:
        self._answer(decision.replies)
        self._controller.metrics.decisions.labels(decision.kind).inc()
        if decision.kind != self._last_kind or decision.actions:
            _log.info(
                "controller.decided",
                kind=decision.kind,
                sentence=decision.sentence,
                term=self.state.term,
                revision=self.state.revision,
                was_revision=before.revision,
                actions=[f"{action.node}:{action.op.__struct_config__.tag}" for action in decision.actions],
            )
            if self.state is not before and not decision.actions:
                # A step without an action brings no event of an agent: the next one is due at once.
                self.wake()
        self._last_kind = decision.kind

    def _note_trouble(self, name: str, sentence: str, commands: tuple[Command, ...]) -> None:
        """Nothing was decided: say so, and look again. Nothing is acted on that was not stored."""
        _log.error("controller.undecided", name=name, sentence=sentence)
        self._trouble = Standing(name, sentence)
        self._answer(tuple(Reply(command.id, 503, sentence) for command in commands))

    def _answer(self, replies: tuple[Reply, ...]) -> None:
        """The command after an answered one is due at once."""
        self._controller.desk.answer(replies)
        if replies and self._controller.desk.next():
            self.wake()

    def _publish(self, state: State, observation: Observation) -> topology.Topology:
        """Push the topology when it changed."""
        record = view.topology(state, observation, self._policy, self._controller.dsns)
        data = topology.encode(record)
        if data != self._published:
            self._controller.hub.publish("topology", data, key="topology")
            self._published = data
            _log.info(
                "controller.topology",
                term=record.term,
                primary=record.primary.name if record.primary is not None else None,
                phase=record.phase.value,
            )
        return record

    async def _end_outage(self, primary: str) -> None:
        incident = self.state.incident
        self._outage_open = False
        if incident is None:
            return
        try:
            await self.store.append((incidents.outage_ended(incident, self._clock.now_ms(), wall_clock(), primary),))
        except StoreError as error:
            _log.error("controller.outage_unwritten", incident=incident, sentence=str(error))

    def _ring(self, observation: Observation, phase: topology.Phase) -> None:
        causes = standing(self.state, observation, phase)
        if self._trouble is not None:
            causes.append(self._trouble)
        self._controller.hook.tell(self._alarms.update(causes, observation.now_ms, observation.at))
        for name, trend in self._trends.items():
            report = observation.nodes.get(name)
            trend.note(report.bytes_free if report is not None else None, observation.now_ms)
