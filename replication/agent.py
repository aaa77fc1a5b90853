"""The agent of one node: puts the parts together, starts them, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import structlog

from replication import data_directory
from replication.api import make_app
from replication.control_file import check_segments
from replication.difference.source import CopySource
from replication.ending import check_planned_stop, stop_node
from replication.errors import ActionFailed, ForeignData, InstallationError, ReplicationError, StateError
from replication.evidence import EvidenceKeeper
from replication.heartbeat import Heartbeat
from replication.installation import find_installation
from replication.lease import NodeLease
from replication.local_node import LocalNode
from replication.log_tail import LogLine, LogTail
from replication.memory import Memory, clock_ms
from replication.model import Postmaster, Role, Stage
from replication.node import Node, make_node
from replication.probes.disk import DiskProbe, DiskResult
from replication.probes.sql import SqlProbe
from replication.promotion import WARM_UP
from replication.publisher import Publisher
from replication.redo_failure import RedoWatch
from replication.replay_pause import ReplayPause
from replication.runner import Runner
from replication.scrub.post_mortem import CRASHED
from replication.scrub.service import Scrub
from replication.settings import AgentSettings, SettingsError, load
from replication.settings_file import check_overrides
from replication.spare import SpareConnection
from replication.sql_watch import SqlWatch
from replication.state_dir import StateDir, open_state
from replication.supervisor import Supervisor
from replication.threads import in_thread
from replication.unreadable_wal import UnreadableWal
from replication.volumes import volumes
from replication.wall_clock import set_offset
from replication.wire import process
from replication.wire.http import new_session
from replication.witness import WitnessWatch

_log = structlog.get_logger()

STOP_DEADLINE_MS = 10_000
_SETTLE_S = 1.0
_REMEMBER_INTERVAL_S = 1.0
_DAMAGE = ("scrub_found", "log_fault", "places_damaged", "redo_judged")
_CRASH_WORDS = "terminating any other active server processes"


def run(settings_path: Path) -> int:
    """Run the agent of these settings until SIGTERM or SIGINT; the exit code.

    A signal stops its PostgreSQL in order. A SIGKILL leaves PostgreSQL running, and the next agent adopts it.
    """
    os.umask(0o077)
    expected = (SettingsError, InstallationError, StateError, ForeignData)
    return process.run(lambda: _main(settings_path), "agent", expected=expected)


async def _main(settings_path: Path) -> int:
    settings = await in_thread(load, settings_path)
    set_offset(settings.wall_clock_offset_ms)
    async with running_agent(settings) as agent:
        await process.until_signal()
        await agent.stop()
    return 0


@asynccontextmanager
async def running_agent(settings: AgentSettings) -> AsyncIterator[Agent]:
    """An agent that listens; at the end of the block it lets its PostgreSQL run on (call `stop` to end that too).

    Raises InstallationError, StateError, ForeignData, SettingsError, SecretError or PortOccupied before anything was started.
    """
    installation = await in_thread(find_installation, settings.bindir)
    node = await in_thread(make_node, settings, installation)
    check_overrides(settings.postgres)
    store = await in_thread(lambda: open_state(settings.state_dir, clock_ms=clock_ms()))
    foreign = await in_thread(data_directory.foreign_sentence, node)
    if foreign is not None:
        _log.error("agent.foreign_data", sentence=foreign)
    else:
        await check_segments(node)
    async with new_session() as session, asyncio.TaskGroup() as tasks:
        agent = Agent(node, store, session, tasks)
        app = make_app(agent)
        async with process.listening(app, settings.listen_host, settings.listen_port):
            await agent.begin()
            try:
                yield agent
            finally:
                agent.close()


class Agent:
    """The parts of one running agent. Everything it starts lives in `tasks`."""

    def __init__(self, node: Node, store: StateDir, session: aiohttp.ClientSession, tasks: asyncio.TaskGroup) -> None:
        self.node = node
        self._tasks = tasks
        self._loops: list[asyncio.Task[None]] = []
        self._looks: set[asyncio.Task[None]] = set()
        self.store = store
        self.begun = asyncio.Event()
        """Set once it has looked at the node: before, its memory would tell of an empty disk and a dead postmaster."""
        deadline_ms = node.settings.probe_deadline_ms
        disk = DiskProbe(lambda: volumes(node), lambda: data_directory.inspect(node), deadline_ms)
        self.memory = Memory(node, disk)
        self.supervisor = Supervisor(node, self.store, self._postmaster_changed, self.run_soon)
        self.publisher = Publisher(self.memory, self.store, self.supervisor)
        self.sql = SqlWatch(SqlProbe(node), self.memory, self.supervisor, self._sql_changed)
        self.witness = WitnessWatch(self.memory, lambda: self._tell("witness_changed"))
        self.heartbeat = Heartbeat(self.memory, self.store, self.supervisor)
        self.lease = NodeLease(self.memory, self.store, self.supervisor, self.heartbeat)
        self.memory.lease_expires_in_ms = self.lease.expires_in_ms
        self.local = LocalNode(
            node,
            self.store,
            self.supervisor,
            self.memory,
            session,
            refresh=self.sql.refresh,
            publish=self._tell,
            spare=SpareConnection(node, self._is_standby, WARM_UP),
        )
        self.scrub = Scrub(self.local, self._tell, self.heartbeat.latency_ms)
        self.copies = CopySource(self.local)
        self.evidence = EvidenceKeeper(self.local, self.scrub.ledger)
        self.memory.scrub_status = lambda: self.scrub.pages.status
        self.memory.ledger_status = self.scrub.ledger.status
        self.memory.compare_status = lambda: self.scrub.compare.status
        self.redo = RedoWatch(self.local)
        self.unreadable_wal = UnreadableWal()
        self.replay_pause = ReplayPause(self.local, self.run_soon)
        self.runner = Runner(self.local, tasks)
        self._log_tail: LogTail | None = None

    async def begin(self) -> None:
        """Adopt what runs, look at the data, and start every loop."""
        await in_thread(data_directory.clear_interrupted_initdb, self.node)
        adopted = await self.supervisor.adopt()
        await self.local.look_at_data()
        planned = self.store.state.planned_stop
        if planned is not None and not adopted:
            await self.store.change(planned_stop=await check_planned_stop(self.node, planned))
        self._log_tail = LogTail(self.node.log_dir, self._log_line)
        for name, loop in (
            ("sql", self.sql.run),
            ("disk", self._probe_disk),
            ("witness", self.witness.run),
            ("heartbeat", self.heartbeat.run),
            ("lease", self.lease.run),
            ("remember", self._remember),
            ("spare", self.local.spare.run),
            ("scrub", self.scrub.run),
        ):
            self._loops.append(self._tasks.create_task(loop(), name=name))
        if adopted:
            settling = self._tasks.create_task(self._settle_adopted(), name="settle")
            self._loops.append(settling)
            await asyncio.wait({settling}, timeout=_SETTLE_S)
        self.begun.set()
        _log.info("agent.began", node=self.node.name, version=self.node.installation.version_text, adopted=adopted)
        self.publisher.tell("began")

    async def stop(self) -> None:
        """End what runs and stop PostgreSQL in order; fenced at the deadline."""
        await self.runner.cancel()
        if not self.supervisor.running:
            return
        try:
            outcome = await stop_node(self.local, STOP_DEADLINE_MS)
            await self.store.change(**outcome.changes)
        except ActionFailed as error:
            _log.error("agent.stop_failed", sentence=error.sentence)

    def close(self) -> None:
        """End every loop; PostgreSQL is not touched."""
        self.publisher.close()
        if self._log_tail is not None:
            self._log_tail.close()
        self.runner.close()
        self.copies.close()
        for task in (*self._loops, *self._looks):
            task.cancel()
        self.supervisor.close()

    def keep(self, looks: list[asyncio.Task[None]]) -> None:
        """Let these go on after their request was answered, until the agent ends."""
        self._looks |= set(looks)
        for look in looks:
            look.add_done_callback(self._looks.discard)

    def _tell(self, what: str) -> None:
        """Tell the subscribers, and keep what shows it when it is damage."""
        self.publisher.tell(what)
        if what in _DAMAGE:
            self.run_soon("evidence", lambda: self.evidence.look(self.publisher.report()))

    def _is_standby(self) -> bool:
        facts = self.memory.sql.facts
        return self.supervisor.postmaster is Postmaster.RUNNING and facts is not None and facts.in_recovery

    def run_soon(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task that ends with the agent."""
        self._tasks.create_task(self._noting(name, work), name=name)

    async def _noting(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except ReplicationError as error:
            _log.error("agent.side_task_failed", task=name, sentence=str(error))

    def _postmaster_changed(self, what: str) -> None:
        if self.supervisor.postmaster is Postmaster.EXITED:
            self.sql.forget()
        self.sql.wake()
        self.publisher.tell(what)

    def _sql_changed(self, what: str) -> None:
        if what == "walreceiver_gone":
            self.run_soon(what, self._look_and_tell)
        else:
            self.publisher.tell(what)

    async def _look_and_tell(self) -> None:
        await self.witness.look()
        self.publisher.tell("walreceiver_gone")

    def _log_line(self, line: LogLine) -> None:
        if line.error_severity in ("FATAL", "PANIC"):
            self.supervisor.last_words = line.message
            if self.redo.heard(line):
                self.run_soon("redo_failure", lambda: self.redo.ask(line))
        if self.unreadable_wal.heard(line):
            _log.warning("agent.unreadable_wal", said=line.message)
            self.run_soon("unreadable_wal", self.scrub.look_at_replay)
        if self.memory.log_faults.note(line):
            _log.error("agent.log_fault", severity=line.error_severity, sqlstate=line.state_code, said=line.message)
            self.evidence.heard(line.error_severity, line.state_code, line.message)
            self._tell("log_fault")
        if CRASHED.search(line.message):
            self.run_soon("post_mortem", self.scrub.post_mortem.look)
        if _CRASH_WORDS in line.message:
            self.supervisor.backend_crashed()

    async def _settle_adopted(self) -> None:
        """Bring an adopted node to what the state says, in case the last agent died between two writes."""
        try:
            await self.supervisor.wait_ready()
            await self.sql.refresh()
            facts, state = self.memory.sql.facts, self.store.state
            if facts is None or state.configured_role is None:
                return
            if not facts.in_recovery and state.configured_role is Role.STANDBY:
                # The last agent died in a promotion that has come true since.
                names: tuple[str, ...] = ()
                await self.store.change(
                    configured_role=Role.PRIMARY, configured_name=None, stage=Stage.OPEN, names=names
                )
            await self.local.write_settings(state.revision)
            await self.local.reload()
            await self.replay_pause.resume()
        except ReplicationError as error:
            _log.warning("agent.settle_failed", sentence=str(error))
        self.publisher.tell("settled")

    async def _probe_disk(self) -> None:
        """Start a disk probe every interval, unless one hangs; tell when the verdict on the disk turns."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        interval_s = self.node.settings.probe_interval_ms / 1000
        bad: object = None

        def done(_: DiskResult) -> None:
            with contextlib.suppress(RuntimeError):  # a probe that hung longer than this agent lived
                loop.call_soon_threadsafe(ended.set)

        while True:
            ended.clear()
            self.memory.disk.start(done)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await ended.wait()
                    await asyncio.sleep(interval_s)
            report = self.memory.disk.report()
            if report is not None and report.fault is not bad:
                bad = report.fault
                _log.warning("agent.disk_probe", ok=report.ok, fault=report.fault, error=report.error)
                self.publisher.tell("disk_probe")
            await self._note_data()

    async def _note_data(self) -> None:
        """The data directory may vanish or be replaced behind the agent's back."""
        result = self.memory.disk.result
        doing = self.memory.doing
        if result is None or result.data in (None, self.memory.data) or (doing is not None and doing.op != "rebuild"):
            return
        await self.local.look_at_data()
        _log.warning("agent.data_changed", data=self.memory.data)
        self.publisher.tell("data_changed")

    async def _remember(self) -> None:
        """Persist how far the primary's WAL was seen flushed, off its disk, at most once a second."""
        while True:
            await asyncio.sleep(_REMEMBER_INTERVAL_S)
            facts, state = self.memory.sql.facts, self.store.state
            if facts is None or facts.in_recovery or facts.flush_lsn is None:
                continue
            if (facts.timeline, facts.flush_lsn) != (state.last_observed_timeline, state.last_observed_flush_lsn):
                try:
                    await self.store.change(
                        last_observed_flush_lsn=facts.flush_lsn, last_observed_timeline=facts.timeline
                    )
                except StateError as error:
                    _log.error("agent.state_unwritable", sentence=str(error))
