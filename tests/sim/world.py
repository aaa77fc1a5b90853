"""The model cluster: two nodes, a client, a controller around the real core, and a seed that decides what breaks.

Safety phase: faults at random, the controller killed at any step. Liveness phase: everything heals, and the cluster must
become healthy or reach a state that only a person may end. Everything comes from `random.Random(seed)`.
"""

from __future__ import annotations

import random

from failover.core.decide import decide
from failover.core.model import Observation, Policy, Silence, State, initial_state
from failover.core.view import next_step, phase
from replication.actions import Action
from replication.model import NodeReport, Role, Stage, Witness
from replication.topology import Phase
from tests.sim.node import ModelNode, Running, duration_ms
from tests.sim.operations import perform

STEP_MS = 50
PEER = {"a": "b", "b": "a"}


class LostWrite(AssertionError):
    """An acknowledged write is missing where the cluster serves."""


class World:
    """Everything that one seed does. `run` raises LostWrite, InvariantViolation or AssertionError."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_ms = 0
        self.records = 0
        self.nodes = {name: ModelNode(name) for name in ("a", "b")}
        self.policy = Policy()
        self.store: State = initial_state(("a", "b"))
        self.in_flight: list[tuple[int, Action]] = []
        self.acknowledged: set[int] = set()
        self.link_cut_until_ms = 0
        self.controller_down_until_ms = 0
        self.agent_down_until_ms = {"a": 0, "b": 0}
        self.unmoved_since_ms = {"a": 0, "b": 0}
        self.kinds: list[str] = []

    def run(self, safety_steps: int = 700, liveness_steps: int = 1_500) -> None:
        """Both phases. Raises when an invariant breaks or the cluster does not converge."""
        for _ in range(safety_steps):
            self._maybe_break()
            self.step()
        self._heal()
        for _ in range(liveness_steps):
            self.step()
            if self.is_settled():
                break
        self.check_converged()

    def is_settled(self) -> bool:
        """Healthy, with nothing under way."""
        return phase(self.store, self.observe(), self.policy) is Phase.HEALTHY

    def check_converged(self) -> None:
        """Healthy, or waiting for a person; and nothing acknowledged is missing on the primary."""
        observation = self.observe()
        now = phase(self.store, observation, self.policy)
        sentence = next_step(self.store, observation, self.policy)
        if now is not Phase.HEALTHY and sentence is None:
            raise AssertionError(f"no convergence: {now}, last decisions {self.kinds[-12:]}")
        if now in (Phase.HEALTHY, Phase.DEGRADED):
            missing = self.acknowledged - set(self.nodes[self.store.primary or "a"].wal)
            if missing:
                raise LostWrite(f"acknowledged and lost: {sorted(missing)[:10]} of {len(self.acknowledged)}")

    def step(self) -> None:
        """50 ms: actions arrive and end, WAL streams, clients write, the controller ticks."""
        self.now_ms += STEP_MS
        for node in self.nodes.values():
            node.clock_ms += STEP_MS
            if not node.is_agent_up and self.now_ms >= self.agent_down_until_ms[node.name]:
                node.restart_agent()
        self._deliver()
        for node in self.nodes.values():
            if node.is_agent_up and node.doing is not None and self.now_ms >= node.doing[1]:
                perform(self, node, node.doing[0])
            if node.process is not None and self.now_ms >= node.checkpointer_hangs_until_ms:
                node.process.names = node.process.wanted_names if not node.process.in_recovery else ()
        self._stream()
        self._write()
        if self.now_ms >= self.controller_down_until_ms:
            self._tick()

    def new_record(self) -> int:
        self.records += 1
        return self.records

    def has_link(self, one: str, other: str) -> bool:
        """The nodes reach each other."""
        return one == other or self.now_ms >= self.link_cut_until_ms

    def stream_last(self, primary: ModelNode) -> None:
        """A clean stop sends the shutdown record to connected standbys before it ends (walsender.c)."""
        for node in self.nodes.values():
            self._receive(node, primary)

    # --- the parts of a step ---

    def _deliver(self) -> None:
        due = [item for item in self.in_flight if item[0] <= self.now_ms]
        self.in_flight = [item for item in self.in_flight if item[0] > self.now_ms]
        for _, action in due:
            jitter = self.random.randint(0, 4) * STEP_MS
            self.nodes[action.node].accept(action, self.now_ms + duration_ms(action.op) + jitter)

    def _stream(self) -> None:
        for node in self.nodes.values():
            primary = self.nodes[PEER[node.name]]
            if not self._receive(node, primary) and node.process is not None:
                node.process.receiver_since = None
                if primary.process is not None:
                    primary.process.senders.pop(node.process.name, None)
        for node in self.nodes.values():
            if node.process is not None:
                alive = self.nodes[PEER[node.name]].process
                for name in list(node.process.senders):
                    if alive is None or alive.name != name:
                        del node.process.senders[name]

    def _receive(self, node: ModelNode, primary: ModelNode) -> bool:
        mine, theirs = node.process, primary.process
        if mine is None or theirs is None or not mine.in_recovery or mine.upstream != primary.name:
            return False
        if theirs.in_recovery or theirs.stage is Stage.CLOSED or not self.has_link(node.name, primary.name):
            return False
        if mine.receiver_since != theirs.incarnation or mine.name not in theirs.senders:
            mine.receiver_since = theirs.incarnation
            primary.connections += 1
            theirs.senders[mine.name] = (primary.connections, 0)
        before = len(node.wal)
        node.wal.extend(primary.wal[before : before + 8])
        node.timeline = max(node.timeline, primary.timeline)
        if len(node.wal) != before:
            self.unmoved_since_ms[node.name] = self.now_ms
        # By name and LSN alone, whatever the content is.
        theirs.senders[mine.name] = (theirs.senders[mine.name][0], len(node.wal))
        theirs.confirmed[mine.name] = max(theirs.confirmed.get(mine.name, 0), len(node.wal))
        return True

    def _write(self) -> None:
        for node in self.nodes.values():
            process = node.process
            if (
                process is None
                or process.in_recovery
                or process.stage is not Stage.OPEN
                or process.role is not Role.PRIMARY
            ):
                continue
            # Servers hold new writes while a switchover is under way.
            if len(process.waiting) < 3 and self.store.transition is None:
                record = self.new_record()
                node.wal.append(record)
                process.waiting.append((record, len(node.wal)))
            self.release(process)

    def release(self, process: Running) -> None:
        """SyncRepReleaseWaiters: everything at or below what a listed name has confirmed, or everything without names."""
        limit = max((process.confirmed.get(name, 0) for name in process.names), default=None)
        if not process.names:
            limit = 1 << 60
        done = [record for record, lsn in process.waiting if limit is not None and lsn <= limit]
        process.waiting = [item for item in process.waiting if item[0] not in done]
        self.acknowledged.update(done)

    def observe(self) -> Observation:
        """What a controller would see at this moment."""
        reports: dict[str, NodeReport | None] = {}
        silence: dict[str, Silence] = {}
        for name, node in self.nodes.items():
            reports[name] = node.report(self._witness(node)) if node.is_agent_up else None
            if not node.is_agent_up:
                silence[name] = Silence.REFUSED
        return Observation(now_ms=self.now_ms, at="", nodes=reports, silence=silence)

    def _witness(self, node: ModelNode) -> Witness:
        peer = self.nodes[PEER[node.name]]
        tcp = "timeout" if not self.has_link(node.name, peer.name) else "connected" if peer.process else "refused"
        unmoved_ms = self.now_ms - self.unmoved_since_ms[node.name]
        in_recovery = node.process is not None and node.process.in_recovery
        return Witness(peer.name, tcp, 10, unmoved_ms if in_recovery else None)

    def _tick(self) -> None:
        state, decision = decide(self.store, self.observe(), self.policy)
        self.kinds.append(decision.kind)
        if state is self.store:
            return
        self.store = state
        if self.is_breaking and self.random.random() < 0.03:
            # Killed after the store was written and before, or while, the actions were sent.
            self.controller_down_until_ms = self.now_ms + self.random.choice((200, 1_000, 3_000))
            return
        for action in decision.actions:
            late = self.random.random() < 0.05 and self.is_breaking
            delay_ms = self.random.choice((500, 1_500, 2_500)) if late else self.random.randint(0, 2) * STEP_MS
            self.in_flight.append((self.now_ms + delay_ms, action))

    # --- faults ---

    is_breaking = False

    def _maybe_break(self) -> None:
        self.is_breaking = True
        if self.random.random() >= 0.006:
            return
        node = self.nodes[self.random.choice(("a", "b"))]
        fault = self.random.choice(FAULTS)
        if fault in ("kill", "kill_both_parts", "lose_tail"):
            tail = self.random.randint(1, 6) if fault == "lose_tail" and not self._lost_tail else 0
            self._lost_tail = self._lost_tail or tail > 0
            node.die(lost_records=tail)
        if fault in ("kill_agent", "kill_both_parts"):
            node.is_agent_up = False
            self.agent_down_until_ms[node.name] = self.now_ms + self.random.choice((300, 1_000, 4_000))
        elif fault == "cut":
            self.link_cut_until_ms = self.now_ms + self.random.choice((300, 2_000, 6_000))
        elif fault == "hang_checkpointer":
            node.checkpointer_hangs_until_ms = self.now_ms + self.random.choice((500, 3_000))
        elif fault == "kill_controller":
            self.controller_down_until_ms = self.now_ms + self.random.choice((200, 1_000, 3_000))

    _lost_tail = False

    def _heal(self) -> None:
        self.is_breaking = False
        self.link_cut_until_ms = 0
        self.controller_down_until_ms = 0
        for node in self.nodes.values():
            node.checkpointer_hangs_until_ms = 0
            self.agent_down_until_ms[node.name] = self.now_ms


FAULTS = ("kill", "kill", "kill_agent", "kill_both_parts", "lose_tail", "cut", "hang_checkpointer", "kill_controller")
