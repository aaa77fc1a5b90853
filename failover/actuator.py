"""Hands decided actions to the agents, all at once. What becomes of them is learnt from the next observation only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from failover.metrics import Metrics
from failover.receipts import ServerReceipts
from replication.actions import Action, Promote, op_name
from replication.client import AgentClient
from replication.wire.errors import WireError

_log = structlog.get_logger()

_ACT_MS = 1_000


class Actuator:
    """Sends in tasks of its own, so that a hung agent does not hold up the next round."""

    def __init__(
        self,
        agents: dict[str, AgentClient],
        receipts: ServerReceipts,
        metrics: Metrics,
        tasks: asyncio.TaskGroup,
        wake: Callable[[], None],
    ) -> None:
        self.refused: dict[str, int] = {}
        """For each node the revision of the newest action that its agent refused: it will never run."""
        self._wake = wake
        self._agents = agents
        self._receipts = receipts
        self._metrics = metrics
        self._tasks = tasks

    def send(self, actions: Iterable[Action]) -> None:
        """Begin to send each, a promotion first: clients wait for it.

        A refusal is told to the core with the next observation, a failure is only logged.
        """
        for action in sorted(actions, key=lambda action: not isinstance(action.op, Promote)):
            self._tasks.create_task(self._send(action), name=f"act-{action.node}-{action.revision}")

    async def _send(self, action: Action) -> None:
        op = op_name(action.op)
        try:
            refused = await self._agents[action.node].act(await self._receipts.attached(action), deadline_ms=_ACT_MS)
        except WireError as error:
            self._metrics.actions.labels(op, error.silence).inc()
            _log.warning(
                "controller.action_failed", node=action.node, op=op, revision=action.revision, sentence=str(error)
            )
            return
        self._metrics.actions.labels(op, "accepted" if refused is None else "refused").inc()
        if refused is not None:
            self.refused[action.node] = max(action.revision, self.refused.get(action.node, 0))
            self._wake()
            _log.warning(
                "controller.action_refused",
                node=action.node,
                op=op,
                revision=action.revision,
                refused=refused.refused.value,
                sentence=refused.sentence,
            )
