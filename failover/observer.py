"""One round of looking at all agents, each with its deadline, into an `Observation`."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from failover.agent_watch import AgentWatch
from failover.clock import ClusterClock, LoopLag
from failover.core.model import Command, Observation, Policy, Silence
from failover.evidence import ServersSeen
from replication.model import NodeReport


def wall_clock() -> str:
    """Now, ISO 8601 with milliseconds and Z: for records only."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Observer:
    """Puts together what the agents and the servers say. Its questions outlive a round only in `tasks`."""

    def __init__(
        self,
        watches: dict[str, AgentWatch],
        servers: ServersSeen,
        clock: ClusterClock,
        lag: LoopLag,
        policy: Policy,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._watches = watches
        self._servers = servers
        self._clock = clock
        self._lag = lag
        self._policy = policy
        self._tasks = tasks

    async def observe(self, primary: str | None, commands: tuple[Command, ...], refused: dict[str, int]) -> Observation:
        """Look at the primary, then at the others, so that what they have is never older than what it says they confirmed.

        When the primary is suspect, the others look at its PostgreSQL afresh. `refused`: for each node the newest action
        that its agent refused.
        """
        began = time.monotonic()
        reports = await self._look(primary)
        silence = {
            name: self._watches[name].silence or Silence.TIMEOUT for name, report in reports.items() if report is None
        }
        return Observation(
            now_ms=self._clock.now_ms(),
            at=wall_clock(),
            nodes=reports,
            silence=silence,
            servers=self._servers.seen(),
            commands=commands,
            refused=dict(refused),
            late=self._is_late(began),
        )

    async def _look(self, primary: str | None) -> dict[str, NodeReport | None]:
        reports: dict[str, NodeReport | None] = {}
        first = self._watches.get(primary or "")
        if first is not None:
            reports[first.name] = await first.look(tasks=self._tasks)
        suspect = first is not None and first.is_suspect()
        fresh = first is not None and first.is_primary()

        async def look(watch: AgentWatch) -> None:
            reports[watch.name] = await watch.look(witness=suspect, fresh=fresh, tasks=self._tasks)

        async with asyncio.TaskGroup() as round_:
            for watch in self._watches.values():
                if watch is not first:
                    round_.create_task(look(watch))
        return reports

    def _is_late(self, began: float) -> bool:
        """This process slept, or the round took longer than any question may: silence and ages prove nothing."""
        interval_ms, deadline_ms = self._policy.probe_interval_ms, self._policy.probe_deadline_ms
        took_ms = (time.monotonic() - began) * 1000
        doubtful = any(watch.doubtful for watch in self._watches.values())
        return doubtful or self._lag.worst_ms(began) > interval_ms or took_ms > deadline_ms + interval_ms
