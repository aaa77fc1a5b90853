"""A model server: it writes to the primary that its last topology names, and says what it sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replication.model import ReceiptCheck, ServerReport, Stage
from replication.topology import Phase, Topology
from tests.sim.leases import has_confirmed_since

if TYPE_CHECKING:
    from tests.sim.node import ModelNode
    from tests.sim.world import World

WAITING_MAX = 2


class ModelServer:
    """`delay_ms`: how late a topology reaches it. A slow one goes on writing to a primary of an older term."""

    def __init__(self, name: str, delay_ms: int) -> None:
        self.name = name
        self.primary: str | None = None
        self.cut_until_ms = 0
        """Until when no topology reaches it."""
        self._delay_ms = delay_ms
        self._term = 0
        self._phase = Phase.STARTING
        self._coming: list[tuple[int, Topology]] = []
        self._last: Topology | None = None
        self._pending: tuple[str, int] | None = None
        """Incarnation and record of the last write, while it waits."""
        self._failing_since_ms: int | None = None
        self._proof_of: tuple[int, str | None] = (0, None)
        self.proof_began_ms: int | None = None
        """Of the commit that it waits for, to prove that it may answer reads."""
        self._proved_ms: int | None = None

    def push(self, now_ms: int, topology: Topology) -> None:
        """The controller publishes on a change only."""
        if topology != self._last:
            self._last = topology
            self._coming.append((max(now_ms + self._delay_ms, self.cut_until_ms), topology))

    def obey(self, now_ms: int) -> None:
        """Take over what has arrived; a term below the own is ignored."""
        while self._coming and self._coming[0][0] <= now_ms:
            topology = self._coming.pop(0)[1]
            if topology.term >= self._term:
                self._term, self._phase = topology.term, topology.phase
                self.primary = topology.primary.name if topology.primary is not None else None

    def write(self, world: World, node: ModelNode | None) -> None:
        """Book, if anybody takes it; held while servers are told to hold."""
        process = node.process if node is not None else None
        if node is None or self._phase is Phase.SWITCHING_OVER:
            self._failing_since_ms = None
            return
        if process is None or process.stage is not Stage.OPEN or process.in_recovery or world.is_frozen(node):
            self._fails(world.now_ms)
            return
        if self._is_waiting(node):
            self._fails(world.now_ms)
            return
        self._failing_since_ms = None
        record = world.new_record()
        node.wal.append(record)
        process.waiting.append((record, len(node.wal), world.now_ms))
        self._pending = (process.incarnation, record)

    def _is_waiting(self, node: ModelNode) -> bool:
        process = node.process
        if process is None or self._pending is None or self._pending[0] != process.incarnation:
            return False
        return any(item[0] == self._pending[1] for item in process.waiting)

    def _fails(self, now_ms: int) -> None:
        if self._failing_since_ms is None:
            self._failing_since_ms = now_ms

    def read(self, world: World) -> None:
        """Read from the primary, as often as possible: answered only while a commit of the same term, begun within the
        lease, has come back (DESIGN section 4)."""
        node = world.nodes[self.primary] if self.primary is not None else None
        process = node.process if node is not None else None
        if self._proof_of != (self._term, self.primary):
            self._proof_of, self._proved_ms, self.proof_began_ms = (self._term, self.primary), None, None
        if node is None or process is None or process.stage is not Stage.OPEN or process.in_recovery:
            self.proof_began_ms = None
            return
        if world.is_frozen(node):
            return
        if self.proof_began_ms is not None and has_confirmed_since(node, self.proof_began_ms):
            self._proved_ms, self.proof_began_ms = self.proof_began_ms, None
        if self.proof_began_ms is None:
            self.proof_began_ms = world.now_ms
        ttl_ms = world.policy.lease_ttl_ms
        is_proved = self._proved_ms is not None and world.now_ms - self._proved_ms < ttl_ms
        if is_proved or "reads" in node.broken:
            world.check_read(self.name, node, ttl_ms)

    def report(self, now_ms: int) -> ServerReport:
        """What it posts as evidence."""
        since_ms = self._failing_since_ms
        return ServerReport(
            server=self.name,
            term=self._term,
            phase=self._phase.value,
            primary=self.primary,
            writes_failing_ms=None if since_ms is None else now_ms - since_ms,
            receipts=ReceiptCheck(self._term, 0, 0),
        )
