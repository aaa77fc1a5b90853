"""The model cluster: two nodes, servers, a controller around the real core, and a seed that decides what breaks.

Safety phase: faults at random, the controller killed at any step. Liveness phase: everything heals, and the cluster must
become healthy or reach a state that only a person may end; then the person does what `next_step` says, and it must
become healthy. Everything comes from `random.Random(seed)`.
"""

from __future__ import annotations

import random

from failover.core.decide import decide
from failover.core.model import Command, CommandKind, Observation, Policy, SeenServer, Silence, State, initial_state
from failover.core.view import next_step, phase, topology
from replication.actions import Action, Fence, LeaseRenewal, Op
from replication.model import NodeReport, Witness
from replication.topology import Phase
from tests.sim.checks import REPORT_AGE_MS_MAX, Checks
from tests.sim.clients import ModelServer
from tests.sim.faults import Faults
from tests.sim.leases import deliver_renewals, keep_leases, send_renewal
from tests.sim.node import ModelNode, Running, duration_ms
from tests.sim.operations import interrupt, perform
from tests.sim.streaming import stream

STEP_MS = 50
HEARTBEAT_MS = 250
REMEMBER_MS = 1_000
ELIGIBLE_CHECK_MS = 250
PEER = {"a": "b", "b": "a"}
DSNS = {"a": "a", "b": "b"}
WORDS_MAX = 3
QUIET_STEPS = 100


class World(Checks):
    """Everything that one seed does. `broken` names rules of the agents that are left out, to see that they matter."""

    def __init__(self, seed: int, broken: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.nodes = {name: ModelNode(name, broken) for name in ("a", "b")}
        self.servers = (ModelServer("s1", delay_ms=50), ModelServer("s2", delay_ms=2_500))
        self.policy = Policy()
        self.store: State = initial_state(("a", "b"))
        self.in_flight: list[tuple[int, Action]] = []
        self.renewals: list[tuple[int, str, LeaseRenewal]] = []
        """Extensions of node leases on their way: when they arrive, and where."""
        self.refused: dict[str, int] = {}
        self.commands: list[Command] = []
        self.seen_before: list[Observation] = []
        self.unmoved_since_ms = {"a": 0, "b": 0}
        self.kinds: list[str] = []
        self.writes_beats = True
        """Heartbeats leave records in the WAL."""
        self.faults = Faults(self.random)

    def run(self, safety_steps: int = 600, liveness_steps: int = 2_000) -> None:
        """All phases. Raises when an invariant breaks or the cluster does not converge."""
        for _ in range(safety_steps):
            self.faults.maybe_break(self)
            self.step()
        self.faults.heal(self)
        self.settle_down(liveness_steps)
        for _ in range(WORDS_MAX):
            if self.is_settled():
                break
            self.obey_next_step()
            self.settle_down(liveness_steps)
        if not self.is_settled():
            raise AssertionError(f"the next step did not help: {next_step(self.store, self.observe(), self.policy)}")
        self.check_nothing_lost(self.nodes[self.store.primary or "a"])
        self.check_eligible(self.nodes, self.store)

    def settle_down(self, steps: int) -> None:
        """Until healthy. Raises when it ends anywhere but there or where a person is asked."""
        quiet = 0
        for _ in range(steps):
            before = self.store
            self.step()
            quiet = quiet + 1 if self.store is before and not self.commands else 0
            if self.is_settled() or (quiet > QUIET_STEPS and self.asks_for_person()):
                break
        if self.is_settled():
            return
        if not self.asks_for_person():
            now = phase(self.store, self.observe(), self.policy)
            raise AssertionError(f"no convergence: {now}, last decisions {self.kinds[-12:]}")

    def asks_for_person(self) -> bool:
        """An alarm with a next step that only a person can take."""
        return any(alarm.name in ("no_primary", "rebuild_blocked") for alarm in self.store.alarms)

    def is_settled(self) -> bool:
        """Healthy, with nothing under way."""
        return phase(self.store, self.observe(), self.policy) is Phase.HEALTHY

    def obey_next_step(self) -> None:
        """The person does what the alarm says; what is then lost was accepted."""
        self.check_person_is_needed(self.nodes, self.store)
        self.person_asked = True
        sentences = " ".join(alarm.sentence for alarm in self.store.alarms)
        for name in self.nodes:
            if f"locum rebuild {name} --accept-damage" in sentences:
                self.ask(CommandKind.REBUILD, name, accept_damage=True)
            elif f"failover --to {name} --accept-d" in sentences:
                self.accept_loss()
                self.ask(CommandKind.FAILOVER, name, accept_data_loss=True, accept_damage=True)

    def ask(self, kind: CommandKind, node: str | None = None, **fields: object) -> None:
        """An operator's command, answered in one of the next ticks."""
        number = len(self.kinds)
        self.commands.append(Command(id=f"c{number}", kind=kind, expected_term=self.store.term, node=node, **fields))  # type: ignore[arg-type]

    def step(self) -> None:
        """50 ms: actions arrive and end, WAL streams, clients write, the controller ticks."""
        self.now_ms += STEP_MS
        for node in self.nodes.values():
            node.clock_ms += STEP_MS
        self.faults.come_back(self)
        self._deliver()
        for node in self.nodes.values():
            if self.answers(node) and node.doing is not None and self.now_ms >= node.doing[1]:
                perform(self, node, node.doing[0])
            hangs = self.now_ms < node.checkpointer_hangs_until_ms or self.is_frozen(node)
            if node.process is not None and not hangs:
                node.process.names = () if node.process.in_recovery else node.process.wanted_names
        stream(self)
        self._write()
        for server in self.servers:
            server.read(self)
        keep_leases(self)
        self.check_step(self.nodes, self.store)
        self.check_superseded(self.nodes, self.policy.lease_ttl_ms)
        if self.now_ms % ELIGIBLE_CHECK_MS == 0:
            self.check_eligible(self.nodes, self.store)
        if self.now_ms >= self.faults.controller_down_until_ms and self.is_tick_due():
            self._tick()

    def is_tick_due(self) -> bool:
        """The controller looks in this step."""
        return True

    def new_record(self) -> int:
        self.records += 1
        return self.records

    def answers(self, node: ModelNode) -> bool:
        """Its agent runs and is not stopped."""
        return node.is_agent_up and self.now_ms >= node.agent_frozen_until_ms

    def hears(self, node: ModelNode) -> bool:
        """The controller gets its agent's answers."""
        return self.answers(node) and self.now_ms >= self.faults.cut_until_ms[node.name]

    def is_frozen(self, node: ModelNode) -> bool:
        """Its PostgreSQL is stopped (SIGSTOP) and will go on where it was."""
        return node.process is not None and self.now_ms < node.frozen_until_ms

    def has_link(self, one: str, other: str) -> bool:
        """The nodes reach each other. A cut path is frozen: nothing comes through, and nothing says so."""
        return one == other or self.now_ms >= self.faults.link_cut_until_ms

    def duration_ms(self, op: Op) -> int:
        """How long an operation takes."""
        jitter = 0 if isinstance(op, Fence) else self.random.randint(0, 4) * STEP_MS
        return duration_ms(op) + jitter

    def agent_dies(self, node: ModelNode) -> None:
        """SIGKILL of the agent: its PostgreSQL goes on, what it was doing may be half done."""
        if node.doing is not None and node.is_agent_up:
            interrupt(self, node, node.doing[0])
        node.is_agent_up = False

    # --- the parts of a step ---

    def _deliver(self) -> None:
        deliver_renewals(self)
        due = [item for item in self.in_flight if item[0] <= self.now_ms]
        self.in_flight = [item for item in self.in_flight if item[0] > self.now_ms]
        for _, action in due:
            node = self.nodes[action.node]
            if not node.is_agent_up:
                continue
            if not self.answers(node):  # it lies in the socket of a stopped agent
                self.in_flight.append((node.agent_frozen_until_ms, action))
                continue
            if node.refuses(action):
                self.refused[action.node] = action.revision
                continue
            if node.doing is not None:
                interrupt(self, node, node.doing[0])
                node.finish(node.doing[0], ok=False, sentence="ended by a fence", reason="interrupted")
            self.check_accepted(action)
            node.begin(action, self.now_ms + self.duration_ms(action.op))

    def _write(self) -> None:
        for server in self.servers:
            server.obey(self.now_ms)
            node = self.nodes[server.primary] if server.primary is not None else None
            server.write(self, node)
        for node in self.nodes.values():
            process = node.process
            if process is None or process.in_recovery or self.is_frozen(node):
                continue
            if self.now_ms % REMEMBER_MS == 0 and self.answers(node):
                node.observed_lsn, node.observed_timeline = len(node.wal), node.timeline
            is_open = process.stage is not None and process.stage.value == "open"
            if self.writes_beats and is_open and self.now_ms % HEARTBEAT_MS == 0 and self.answers(node):
                node.wal.append(self.new_record())
            self.release(node, process)

    def release(self, node: ModelNode, process: Running) -> None:
        """SyncRepReleaseWaiters: everything at or below what a listed name has confirmed, or everything without names."""
        limit = process.high_water if process.names else len(node.wal)
        done = {record for record, lsn, _ in process.waiting if lsn <= limit}
        if done:
            process.waiting = [item for item in process.waiting if item[0] not in done]
            self.acknowledged |= done
            self.note_told(done)

    def observe(self) -> Observation:
        """What a controller would see at this moment."""
        reports: dict[str, NodeReport | None] = {}
        silence: dict[str, Silence] = {}
        for name, node in self.nodes.items():
            reports[name] = node.report(self._witness(node), self.now_ms) if self.hears(node) else None
            if not self.hears(node):
                silence[name] = Silence.TIMEOUT if node.is_agent_up else Silence.REFUSED
        servers = tuple(SeenServer(server.report(self.now_ms), 50) for server in self.servers)
        return Observation(now_ms=self.now_ms, at="", nodes=reports, silence=silence, servers=servers)

    def _witness(self, node: ModelNode) -> Witness:
        peer = self.nodes[PEER[node.name]]
        tcp = "timeout" if not self.has_link(node.name, peer.name) else "connected" if peer.process else "refused"
        unmoved_ms = self.now_ms - self.unmoved_since_ms[node.name]
        in_recovery = node.process is not None and node.process.in_recovery
        return Witness(peer.name, tcp, 10, unmoved_ms if in_recovery else None)

    def _observed(self) -> Observation:
        """As it reaches the controller: reports may be a little old, and at most one command comes with it."""
        observation = self.observe()
        fresh = [seen for seen in self.seen_before if self.now_ms - seen.now_ms <= REPORT_AGE_MS_MAX]
        self.seen_before = [*fresh[-5:], observation]
        nodes = dict(observation.nodes)
        if self.faults.is_breaking and self.random.random() < 0.1:
            name = self.random.choice(("a", "b"))
            nodes[name] = self.random.choice(self.seen_before).nodes[name]
        refused, self.refused = self.refused, {}
        return Observation(
            now_ms=observation.now_ms,
            at="",
            nodes=nodes,
            silence=observation.silence,
            servers=observation.servers,
            commands=tuple(self.commands[:1]),
            refused=refused,
        )

    def _tick(self) -> None:
        observation = self._observed()
        before = self.store
        state, decision = decide(before, observation, self.policy)
        self.kinds.append(decision.kind)
        if decision.replies:
            self.commands = self.commands[1:]
        shown = topology(state, observation, self.policy, DSNS)
        for server in self.servers:
            server.push(self.now_ms, shown)
        if state is before:
            send_renewal(self, observation)
            return
        self.check_store(self.nodes, before, state, decision)
        self.note_written_off(self.nodes, before, state)
        self.store = state
        dies = self.faults.controller_dies(self)
        if not dies:
            send_renewal(self, observation)
        for action in decision.actions:
            for delay_ms in self.faults.delays(self, dies=dies):
                self.in_flight.append((self.now_ms + delay_ms, action))
