"""The node lease: how long an open primary may serve without knowing that it still is the primary (DESIGN section 4).

Losing the controller must not stop the service, and a primary that was superseded must not go on answering. So when the
lease has run out, the primary serves on only while its write barrier is provably alive.
"""

from __future__ import annotations

import asyncio

import structlog

from replication.errors import ActionFailed, StateError
from replication.heartbeat import Heartbeat
from replication.memory import Memory, clock_ms
from replication.model import Postmaster, Role, Stage
from replication.state_dir import StateDir
from replication.supervisor import Supervisor

_log = structlog.get_logger()

_LOOK_EVERY_MS = 50
WAKING_MS = 500
"""Two heartbeats. An agent that did not run for so long knows nothing of that time: neither a renewal nor a heartbeat could
reach it. It takes one more such while to hear before it judges, once until something was heard."""


def must_fence(*, left_ms: int, names: tuple[str, ...], heartbeat_age_ms: int | None, ttl_ms: int) -> str | None:
    """Why an open primary must fence itself now; None while it may serve.

    `names`: who must confirm its writes, by the highest revision that its agent holds. `heartbeat_age_ms`: how long ago
    the newest synchronous commit that came back was *started*.
    """
    if left_ms > 0 or not names:
        return None
    if heartbeat_age_ms is not None and heartbeat_age_ms < ttl_ms:
        return None
    return (
        f"fenced itself: no controller has named it primary for {ttl_ms - left_ms} ms, and {', '.join(names)} does not "
        "confirm its writes, so another may have been promoted"
    )


def excused(*, slept_ms: int, excused_ms: int | None, heard_ms: int | None) -> bool:
    """Whether an agent that did not look for `slept_ms` may listen for WAKING_MS before it judges.

    `excused_ms`: when it last did so; `heard_ms`: when it was last heard, by renewal or heartbeat, that it is the primary. An
    agent that is starved again and again does not put its judgement off for ever.
    """
    if slept_ms < WAKING_MS:
        return False
    return excused_ms is None or (heard_ms is not None and heard_ms > excused_ms)


class NodeLease:
    """`told` is called with the sentence when the node has been fenced by its own agent."""

    def __init__(self, memory: Memory, store: StateDir, supervisor: Supervisor, heartbeat: Heartbeat) -> None:
        self._memory = memory
        self._store = store
        self._supervisor = supervisor
        self._heartbeat = heartbeat
        self._ttl_ms = memory.node.settings.lease_ttl_ms
        # One time to live of grace after the agent's start: a postmaster that it adopts may well be the primary.
        self._until_ms = clock_ms() + self._ttl_ms
        self._looked_ms = clock_ms()
        self._excused_ms: int | None = None
        self._renewed_ms: int | None = None

    def renew(self, answered_ms: int) -> None:
        """The leading controller named this node primary in answer to what the agent said at `answered_ms` (its own
        clock). Never counted from the renewal's arrival, which may be late."""
        answered_ms = min(answered_ms, clock_ms())
        self._renewed_ms = max(self._renewed_ms or 0, answered_ms)
        self._until_ms = max(self._until_ms, answered_ms + self._ttl_ms)

    def expires_in_ms(self) -> int | None:
        """Negative when it has run out; None for a node to which it does not apply."""
        return self._until_ms - clock_ms() if self._applies() else None

    async def run(self) -> None:
        """Until cancelled: fence the node when it must not serve any more."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_MS / 1000)
            self._wake()
            if not self._applies():
                # It begins with the opening of a primary, however long its start took.
                self._until_ms = max(self._until_ms, clock_ms() + self._ttl_ms)
                continue
            beat_ms = self._heartbeat.returned_started_ms
            why = must_fence(
                left_ms=self._until_ms - clock_ms(),
                names=self._store.state.names,
                heartbeat_age_ms=clock_ms() - beat_ms if beat_ms is not None else None,
                ttl_ms=self._ttl_ms,
            )
            if why is not None:
                await self._fence(why)

    def _wake(self) -> None:
        now_ms = clock_ms()
        slept_ms, self._looked_ms = now_ms - self._looked_ms, now_ms
        heard = [at_ms for at_ms in (self._renewed_ms, self._heartbeat.returned_started_ms) if at_ms is not None]
        if excused(slept_ms=slept_ms, excused_ms=self._excused_ms, heard_ms=max(heard, default=None)):
            _log.warning("agent.slept", slept_ms=slept_ms)
            self._excused_ms = now_ms
            self._until_ms = max(self._until_ms, now_ms + WAKING_MS)

    def _applies(self) -> bool:
        state = self._store.state
        up = self._supervisor.postmaster is Postmaster.RUNNING
        return up and state.configured_role is Role.PRIMARY and state.stage is Stage.OPEN

    async def _fence(self, why: str) -> None:
        _log.error("agent.self_fenced", sentence=why)
        try:
            await self._supervisor.fence(why)
            await self._store.change(fenced=True)
        except (ActionFailed, StateError) as error:
            _log.error("agent.self_fence_incomplete", sentence=str(error))
