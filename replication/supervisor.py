"""The node's postmaster over its life: adopted or started, known to be up, reloaded, stopped, fenced, seen to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import structlog

from replication import data_directory
from replication.errors import ActionFailed, FenceIncomplete
from replication.fence import Fenced, fence
from replication.model import Postmaster, Reason
from replication.node import Node
from replication.postmaster import PostmasterProcess, adopt, spawn
from replication.proc import ProcessId, find_postmaster, parse_process_id
from replication.retries import until
from replication.settings_file import conf_path
from replication.state_dir import StateDir
from replication.threads import in_thread

_log = structlog.get_logger()

START_LOG = "start.log"
READY_DEADLINE_MS = 120_000
_READY_POLL_MS = 5
_LAST_WORDS_DEADLINE_MS = 3_000
_STATUS_LINE = 7  # src/include/utils/pidfile.h, LOCK_FILE_LINE_PM_STATUS
_STATUS_READY = "ready"


class Supervisor:
    """`changed(what)` is called on the event loop for every change of `postmaster`; `run_soon` starts a task that ends
    with the agent."""

    def __init__(
        self,
        node: Node,
        store: StateDir,
        changed: Callable[[str], None],
        run_soon: Callable[[str, Callable[[], Coroutine[Any, Any, None]]], None],
    ) -> None:
        self.node = node
        self.store = store
        self.postmaster = Postmaster.ABSENT
        self.process: PostmasterProcess | None = None
        self.ended_unasked = False
        """The last postmaster ended although nobody here had stopped or fenced it."""
        self.exit_sentence: str | None = store.state.exit_sentence
        self.last_words: str | None = None
        """The last FATAL or PANIC line of PostgreSQL's log."""
        self._asked = False
        self._why_fenced: str | None = None
        self._changed = changed
        self._run_soon = run_soon
        # Resolved once, early: later a stalled disk could hold the call up.
        self.directory = os.path.realpath(node.data_dir)

    @property
    def running(self) -> bool:
        """A postmaster lives, whatever it is doing."""
        return self.process is not None and self.process.running

    @property
    def incarnation(self) -> str | None:
        """pid and start time of the postmaster, current or last."""
        return str(self.process.identity) if self.process is not None else self.store.state.incarnation

    async def adopt(self) -> bool:
        """At the agent's start: take over a postmaster that an earlier agent started, or note that it is gone."""
        state = self.store.state
        found = await in_thread(find_postmaster, self.directory)
        process = adopt(found) if found is not None else None
        if process is not None:
            self._take(process)
            self.postmaster = Postmaster.STARTING
            await self.store.change(incarnation=str(process.identity), running=True, fenced=False)
            _log.info("agent.adopted", incarnation=self.incarnation)
            return True
        # Backends outlive a postmaster that was killed alone, by seconds in which they still answer.
        await in_thread(fence, None, self.directory)
        if state.running and state.incarnation is not None:
            self.postmaster, self.ended_unasked = Postmaster.EXITED, True
            self.exit_sentence = "ended while no agent was there to see it"
            await self.store.change(running=False, exit_sentence=self.exit_sentence)
        return False

    async def start(self, *, standby: bool) -> None:
        """Start in a data directory whose settings files are written, and return when it accepts connections.

        Raises ActionFailed: WRONG_STATE, FAILED (it ended: the sentence says where to read why), DEADLINE (it goes on).
        """
        if self.running:
            raise ActionFailed(Reason.WRONG_STATE, f"the postmaster {self.incarnation} runs already")
        await in_thread(data_directory.prepare, self.node, standby=standby)
        command = self.node.installation.command("postgres", f"--config-file={conf_path(self.node)}")
        command += ["-D", str(self.node.data_dir)]
        self._asked, self._why_fenced, self.ended_unasked = False, None, False
        self.exit_sentence = self.last_words = None
        process = await spawn(command, self.node.log_dir / START_LOG)
        self._take(process)
        self._become(Postmaster.STARTING)
        await self.store.change(
            incarnation=str(process.identity), running=True, exit_sentence=None, fenced=False, planned_stop=None
        )
        await self.wait_ready()

    async def wait_ready(self) -> None:
        """Until the pid file says `ready`: it accepts connections (a standby: it is consistent too)."""
        process = self.process
        if process is None:
            raise ActionFailed(Reason.WRONG_STATE, "no postmaster runs")

        async def ready() -> bool:
            if not process.running:
                how, why = process.exited.result(), await self._why()
                raise ActionFailed(Reason.FAILED, f"PostgreSQL did not start ({how}): {why}; see {self.node.log_dir}")
            return await in_thread(self._pid_file_status) == _STATUS_READY

        sentence = "PostgreSQL still does not accept connections; it goes on starting"
        await until(ready, every_ms=_READY_POLL_MS, deadline_ms=READY_DEADLINE_MS, sentence=sentence)
        if process.running and self.postmaster is not Postmaster.STOPPING:
            self._become(Postmaster.RUNNING)

    def reload(self) -> None:
        """Have the settings and pg_hba read again."""
        if self.process is not None:
            self.process.reload()

    async def stop(self, deadline_s: float) -> bool:
        """Fast shutdown (SIGINT). True when it ended by itself before the deadline; afterwards nothing is left."""
        if self.process is None or not self.process.running:
            return True
        self._asked = True
        self._become(Postmaster.STOPPING)
        self.process.send(signal.SIGINT)
        try:
            async with asyncio.timeout(deadline_s):
                await asyncio.shield(self.process.exited)
        except TimeoutError:
            await self.fence()
            return False
        await in_thread(fence, None, self.directory)
        return True

    async def fence(self, why: str | None = None) -> Fenced:
        """Kill every process of the node. Raises ActionFailed(DEADLINE) when the kernel keeps one of them.

        `why`: what its end is put down to, when nobody outside had asked for it.
        """
        self._asked, self._why_fenced = True, why
        identity = self._last_identity()
        try:
            fenced = await asyncio.shield(in_thread(fence, identity, self.directory))
        except FenceIncomplete as error:
            raise ActionFailed(Reason.DEADLINE, str(error)) from error
        if self.process is not None and self.process.running:
            await asyncio.wait({self.process.exited}, timeout=1.0)
        _log.warning("agent.fenced", killed=fenced.killed, took_ms=round(fenced.took_ms, 1))
        return fenced

    def backend_crashed(self) -> None:
        """A child crashed and the postmaster is ending the others: kill the rest, it would take 1.7 s by itself."""
        if self.running:
            _log.warning("agent.backend_crashed", incarnation=self.incarnation)
            self._run_soon("fence_after_crash", self._finish_crash)

    def close(self) -> None:
        """Stop watching; the postmaster goes on."""
        if self.process is not None:
            self.process.close()

    async def _finish_crash(self) -> None:
        began = time.monotonic()
        await in_thread(fence, self._last_identity(), self.directory)
        _log.info("agent.crash_finished", took_ms=round((time.monotonic() - began) * 1000, 1))

    def _last_identity(self) -> ProcessId | None:
        incarnation = self.incarnation
        return parse_process_id(incarnation) if incarnation is not None else None

    def _take(self, process: PostmasterProcess) -> None:
        self.process = process
        process.exited.add_done_callback(lambda _: self._on_exit(process))

    def _on_exit(self, process: PostmasterProcess) -> None:
        if process.exited.cancelled() or process is not self.process:
            return
        sentence = process.exited.result()
        self.ended_unasked = not self._asked
        _log.log(30 if self.ended_unasked else 20, "agent.postmaster_exited", how=sentence, asked=self._asked)
        self.exit_sentence = sentence if self.ended_unasked else self._why_fenced
        self._become(Postmaster.EXITED)
        self._run_soon("after_exit", self._after_exit)

    async def _after_exit(self) -> None:
        await in_thread(fence, None, self.directory)
        await self.store.change(running=False, exit_sentence=self.exit_sentence)

    def _become(self, postmaster: Postmaster) -> None:
        if self.postmaster is not postmaster:
            self.postmaster = postmaster
            self._changed(f"postmaster_{postmaster}")

    async def _why(self) -> str:
        """PostgreSQL's last words; its log collector may still be writing them when the postmaster has gone."""

        async def said() -> bool:
            if self.last_words is None:
                found = await in_thread(_last_fatal, self.node.log_dir / START_LOG)
                self.last_words = self.last_words or found  # the log may have told it in the meantime
            return self.last_words is not None

        with contextlib.suppress(ActionFailed):
            await until(said, every_ms=20, deadline_ms=_LAST_WORDS_DEADLINE_MS, sentence="it did not say why")
        return self.last_words or "it did not say why"

    def _pid_file_status(self) -> str:
        try:
            lines = (self.node.data_dir / "postmaster.pid").read_text(encoding="ascii", errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return lines[_STATUS_LINE].strip() if len(lines) > _STATUS_LINE else ""


def _last_fatal(path: Path) -> str | None:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
    except OSError:
        lines = []
    return next((line for line in reversed(lines) if "FATAL" in line or "PANIC" in line), None)
