"""One round of looking: all agents at once, each with its deadline, into an `Observation`."""

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
        """Look at every agent; when the primary is suspect, the others look at its PostgreSQL afresh first.

        `refused`: for each node the newest action that its agent refused.
        """
        began = time.monotonic()
        suspect = self._is_suspect(primary)
        await self._look(list(self._watches), witness=suspect)
        if not suspect and self._is_silent(primary):
            await self._look([name for name in self._watches if name != primary], witness=True)
        silence = {name: watch.silence for name, watch in self._watches.items() if watch.silence is not None}
        return Observation(
            now_ms=self._clock.now_ms(),
            at=wall_clock(),
            nodes=self._reports(silence),
            silence=silence,
            servers=self._servers.seen(),
            commands=commands,
            refused=dict(refused),
            late=self._is_late(began),
        )

    async def _look(self, names: list[str], *, witness: bool) -> None:
        async with asyncio.TaskGroup() as round_:
            for name in names:
                round_.create_task(self._watches[name].look(witness=witness, tasks=self._tasks))

    def _reports(self, silence: dict[str, Silence]) -> dict[str, NodeReport | None]:
        return {name: None if name in silence else watch.latest for name, watch in self._watches.items()}

    def _is_suspect(self, primary: str | None) -> bool:
        return primary in self._watches and self._watches[primary].is_suspect()

    def _is_silent(self, primary: str | None) -> bool:
        return primary in self._watches and self._watches[primary].silence is not None

    def _is_late(self, began: float) -> bool:
        """This process slept, or the round took longer than any question may: silence and ages prove nothing."""
        interval_ms, deadline_ms = self._policy.probe_interval_ms, self._policy.probe_deadline_ms
        took_ms = (time.monotonic() - began) * 1000
        doubtful = any(watch.doubtful for watch in self._watches.values())
        return doubtful or self._lag.worst_ms(began) > interval_ms or took_ms > deadline_ms + interval_ms
