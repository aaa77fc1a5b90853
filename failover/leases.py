"""Renews the node lease of the primary: sent beside the rounds, one at a time, and never waited for."""

from __future__ import annotations

import asyncio

import structlog

from failover.core.lease import renewable
from failover.core.model import Observation, Policy, State
from replication.actions import LeaseRenewal
from replication.client import AgentClient
from replication.model import NodeReport
from replication.wire.errors import WireError

_log = structlog.get_logger()


class Leases:
    """`agents` by node name; `tasks` holds what is under way."""

    def __init__(self, agents: dict[str, AgentClient], policy: Policy, tasks: asyncio.TaskGroup) -> None:
        self._agents = agents
        self._policy = policy
        self._tasks = tasks
        self._sending: asyncio.Task[None] | None = None
        self._renewed: tuple[str, int] = ("", 0)

    def renew(self, state: State, observation: Observation) -> None:
        """Send a renewal when one is due: an interval has passed on the agent's clock since the last one."""
        report = renewable(state, observation)
        if report is None or (self._sending is not None and not self._sending.done()):
            return
        boot_id, answered_ms = self._renewed
        if report.boot_id == boot_id and report.clock_ms - answered_ms < self._policy.probe_interval_ms:
            return
        self._sending = self._tasks.create_task(self._send(state.term, report), name=f"lease-{report.node}")

    async def _send(self, term: int, report: NodeReport) -> None:
        renewal = LeaseRenewal(term, report.boot_id, report.clock_ms)
        try:
            await self._agents[report.node].renew_lease(renewal, deadline_ms=self._policy.probe_deadline_ms)
        except WireError as error:
            _log.info("controller.lease_not_renewed", node=report.node, sentence=str(error))
        else:
            self._renewed = (report.boot_id, report.clock_ms)
