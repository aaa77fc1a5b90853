"""Makes reports and tells them to the subscribers of the agent's events."""

from __future__ import annotations

import msgspec
import structlog

from replication.memory import Memory, build_report
from replication.model import NodeReport
from replication.state_dir import StateDir
from replication.supervisor import Supervisor
from replication.wire.sse import EventHub

_log = structlog.get_logger()


class Publisher:
    """`hub` is what GET /v1/events serves."""

    def __init__(self, memory: Memory, store: StateDir, supervisor: Supervisor) -> None:
        self.hub = EventHub()
        self._memory = memory
        self._store = store
        self._supervisor = supervisor

    def report(self) -> NodeReport:
        """As of now, from memory."""
        return build_report(self._memory, self._store, self._supervisor)

    def tell(self, what: str) -> None:
        """Send a fresh report to every subscriber, because of `what`."""
        _log.debug("agent.told", what=what)
        self.hub.publish("report", msgspec.json.encode(self.report()), key="report")

    def close(self) -> None:
        """End the streams."""
        self.hub.close()
