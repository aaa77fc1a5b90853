"""One agent as the controller sees it: its stream of events, its answers, and its silence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from failover.clock import LoopLag
from failover.core.model import Policy, Silence
from failover.retries import resubscribing
from replication.client import AgentClient
from replication.model import FaultKind, NodeReport, Postmaster
from replication.wire.errors import WireError

_log = structlog.get_logger()

FRESH_MS = 30
"""An event's report of this age serves as the node's report of a round, without asking again."""
_WITNESS_FRESH_MS = 100


class AgentWatch:
    """Follow an agent's events, and look at it. `wake` is called when something happened that the core should see.

    An agent that has let a deadline pass is asked again beside the rounds, so that a hung one does not slow down what is
    decided about the other; its first answer ends its silence.
    """

    def __init__(self, name: str, client: AgentClient, policy: Policy, lag: LoopLag, wake: Callable[[], None]) -> None:
        self.name = name
        self.latest: NodeReport | None = None
        """The newest report, whatever its age."""
        self.silence: Silence | None = None
        """How the last question failed; None when it was answered."""
        self.doubtful = False
        """That silence was measured by a loop that was late itself."""
        self.streaming = False
        self._client = client
        self._policy = policy
        self._lag = lag
        self._wake = wake
        self._told_at: float | None = None
        self._aside: asyncio.Task[NodeReport | None] | None = None

    async def follow(self) -> None:
        """Follow its stream for ever; each event and the end of the stream wake the controller."""
        while True:
            try:
                await resubscribing()(self._follow_once)
            except WireError:
                continue

    async def look(self, *, tasks: asyncio.TaskGroup, witness: bool = False, fresh: bool = False) -> NodeReport | None:
        """Its report now, or None with `silence` set.

        `witness`: after a fresh look at its peer. `fresh`: with SQL facts that are newer than this call. `tasks` holds the
        question that goes on beside the rounds.
        """
        if not fresh and self._was_just_told(witness=witness):
            return self.latest
        if self.silence is Silence.TIMEOUT:
            if self._aside is None or self._aside.done():
                self._aside = tasks.create_task(self._ask(witness, fresh, beside=True), name=f"ask-{self.name}")
            return None
        return await self._ask(witness, fresh)

    def is_suspect(self) -> bool:
        """Silent, or its PostgreSQL over a deadline: the others are asked for a fresh look at it."""
        if self.silence is not None or self.latest is None:
            return True
        sql = self.latest.sql
        return self.latest.postmaster is Postmaster.RUNNING and sql is not None and sql.fault is FaultKind.UNRESPONSIVE

    def is_primary(self) -> bool:
        """It answered, as a running primary that tells what its standbys have confirmed."""
        report = self.latest
        return (
            self.silence is None
            and report is not None
            and report.postmaster is Postmaster.RUNNING
            and report.in_recovery is False
        )

    async def _follow_once(self) -> None:
        try:
            async for report in self._client.events():
                if not self.streaming:
                    _log.info("controller.agent_heard", node=self.name, boot_id=report.boot_id)
                self.streaming = True
                self._note(report)
                self._told_at = time.monotonic()
                self._wake()
        except WireError as error:
            if self.streaming:
                _log.warning("controller.agent_stream_ended", node=self.name, sentence=str(error))
                self.streaming, self._told_at = False, None
                self._wake()
            raise

    def _was_just_told(self, *, witness: bool) -> bool:
        report = self.latest
        if report is None or self._told_at is None or (time.monotonic() - self._told_at) * 1000 > FRESH_MS:
            return False
        if not witness:
            return True
        # A look that still reached the primary may be older than its death: such a witness is asked again.
        seen = report.witness
        return seen is not None and seen.tcp != "connected" and seen.age_ms <= _WITNESS_FRESH_MS

    async def _ask(self, witness: bool, fresh: bool, *, beside: bool = False) -> NodeReport | None:
        began = time.monotonic()
        try:
            report = await self._client.observe(
                witness=witness, fresh=fresh, deadline_ms=self._policy.probe_deadline_ms
            )
        except WireError as error:
            self._note_silence(Silence(error.silence), began, str(error))
            return None
        was_silent = self.silence is not None
        self._note(report)
        if beside or was_silent:
            _log.info("controller.agent_answers", node=self.name)
        if beside:
            self._told_at = time.monotonic()
            self._wake()
        return self.latest

    def _note_silence(self, silence: Silence, began: float, sentence: str) -> None:
        self.doubtful = self._lag.worst_ms(began) > self._policy.probe_interval_ms
        if silence is not self.silence:
            _log.warning("controller.agent_silent", node=self.name, silence=silence.value, sentence=sentence)
        self.silence = silence
        self._told_at = None

    def _note(self, report: NodeReport) -> None:
        """Keep the newest: an answer may have been overtaken by an event of the same boot."""
        self.silence, self.doubtful = None, False
        known = self.latest
        if known is None or report.boot_id != known.boot_id or report.seq >= known.seq:
            self.latest = report
