"""The invariants of DESIGN section 3 and the promise of section 4, checked on the model world itself."""

from __future__ import annotations

from failover.core.model import Decision, State, TransitionKind
from replication.actions import Action, Promote, Rebuild, op_name
from replication.model import Stage
from tests.sim.node import ModelNode

REPORT_AGE_MS_MAX = 400
SLACK_MS = 200
"""What a step, a report's age and a fence may add to a lease."""


class Broken(AssertionError):
    """An invariant does not hold in the world; the text begins with its number."""


class LostWrite(AssertionError):
    """An acknowledged (or shown) write is missing on a node that is to serve."""


class StaleRead(AssertionError):
    """A read was answered that hides what somebody was told long before."""


class Checks:
    """What an all-seeing observer remembers of the world."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.acknowledged: set[int] = set()
        self.receipts: set[int] = set()
        """Of those, what a server has told a client; the rest was only to be seen."""
        self.records = 0
        self._records_at_choice = 0
        self.person_asked = False
        self._may_lose = False
        self._opened_by_receipts: str | None = None
        self._kept_records = 0
        """Of a candidate that was restarted while it was promoted, only what came later than its choice."""
        self._last_sent = 0
        self._told_ms: dict[int, int] = {}
        self._written_off: set[tuple[str, int]] = set()
        self.superseded_by: str | None = None
        self.superseded_ms = 0
        """The node that was promoted last, and when."""
        self._primary_of_term: dict[int, str] = {}
        self._seen = {"a": (0, 0), "b": (0, 0)}

    def told_ms(self, record: int) -> int:
        """When a client was first told of it."""
        return self._told_ms[record]

    def primary_of_term(self, term: int) -> str | None:
        """Which node was primary in it."""
        return self._primary_of_term.get(term)

    def opened_by_receipts(self) -> tuple[str | None, int, int]:
        """Which node the receipts opened, and the numbers of the records up to which it must hold everything."""
        return self._opened_by_receipts, self._kept_records, self._records_at_choice

    def is_written_off(self, action: Action) -> bool:
        """The controller has given it up as never accepted."""
        return (action.node, action.revision) in self._written_off

    def accept_loss(self) -> None:
        """An operator said --accept-data-loss: from the next start or promotion on, what is there counts."""
        self._may_lose = True

    def check_nothing_lost(self, node: ModelNode) -> None:
        """Everything acknowledged or shown is on this node."""
        missing = self.acknowledged - set(node.wal)
        if not missing:
            return
        by_receipts = node.name == self._opened_by_receipts and not missing & self.receipts
        if self._may_lose or (by_receipts and min(missing) > self._kept_records):
            # Accepted: what was only read, and whose receipt had not been written when the disk lost it, may be gone.
            self.acknowledged -= missing
            self.receipts -= missing
            return
        raise LostWrite(f"missing on {node.name}: {sorted(missing)[:10]} of {len(self.acknowledged)}")

    def check_store(self, nodes: dict[str, ModelNode], before: State, after: State, decision: Decision) -> None:
        """Invariants 1 and 4 in what is decided."""
        if after.term < before.term or after.revision < before.revision:
            raise Broken(f"1: term {before.term} to {after.term}, revision {before.revision} to {after.revision}")
        for action in decision.actions:
            if action.revision < self._last_sent or (action.revision == before.revision):
                raise Broken(f"1: an action with revision {action.revision} after {self._last_sent}")
            self._last_sent = action.revision
            transition = after.transition
            was_chosen = (
                transition is not None and nodes[action.node].last_incarnation == transition.candidate_incarnation
            )
            if isinstance(action.op, Promote) and not was_chosen:
                self._opened_by_receipts, self._kept_records = action.node, self._records_at_choice
            if isinstance(action.op, Rebuild):
                self._check_damage(nodes[action.op.source], "is to be the source of a rebuild")
        if decision.kind == "start.proved_alone":
            self._opened_by_receipts, self._kept_records = after.primary, 0
        if begins_promotion(before, after) and after.transition is not None:
            self._opened_by_receipts, self._records_at_choice = None, self.records
            self._check_damage(nodes[after.transition.candidate], "is to be promoted")
        is_new = before.primary != after.primary and before.primary is not None
        if is_new and before.transition is not None and before.transition.kind is TransitionKind.FAILOVER:
            former = nodes[before.primary or ""]
            former.is_tainted, former.is_rebuilt = True, False

    def check_step(self, nodes: dict[str, ModelNode], store: State) -> None:
        """Invariants 1, 2 and 5 on the nodes."""
        able = [node.name for node in nodes.values() if can_acknowledge(node, nodes)]
        if len(able) > 1:
            raise Broken(f"2: {able} can both acknowledge writes")
        for node in nodes.values():
            if node.term < self._seen[node.name][0] or node.revision < self._seen[node.name][1]:
                raise Broken(f"1: term or revision of {node.name} fell")
            self._seen[node.name] = (node.term, node.revision)
            if node.is_tainted and store.nodes[node.name].eligible:
                raise Broken(f"5: {node.name} is eligible again without rebuild and certificate")

    def check_eligible(self, nodes: dict[str, ModelNode], store: State) -> None:
        """What "eligible" means: promoting it loses nothing. Verified: it runs since that was proved."""
        if store.transition is not None:
            return
        for name, record in store.nodes.items():
            verified = record.eligible_incarnation == nodes[name].last_incarnation and nodes[name].process is not None
            if name != store.primary and record.eligible and verified:
                missing = self.acknowledged - set(nodes[name].wal)
                if missing:
                    raise LostWrite(f"{name} is eligible and lacks {sorted(missing)[:10]}")

    def note_told(self, records: set[int]) -> None:
        """A client was told of these."""
        self.receipts |= records
        for record in records:
            self._told_ms.setdefault(record, self.now_ms)

    def check_read(self, server: str, node: ModelNode, ttl_ms: int) -> None:
        """An answered read shows everything that anybody was told of a lease ago."""
        if node.name == self.superseded_by:
            return
        old = {record for record in self.receipts if self._told_ms[record] < self.now_ms - ttl_ms - SLACK_MS}
        missing = old - set(node.wal)
        if missing and not self._may_lose:
            raise StaleRead(f"{server} answers from {node.name}, which lacks {sorted(missing)[:10]}")

    def check_superseded(self, nodes: dict[str, ModelNode], ttl_ms: int) -> None:
        """A primary past which another was promoted answers nobody when a lease has gone by in which its agent ran."""
        for node in nodes.values():
            process = node.process
            is_open = process is not None and process.stage is Stage.OPEN and not process.in_recovery
            if not is_open or self.superseded_by in (None, node.name) or self._may_lose:
                continue
            since_ms = max(self.superseded_ms, node.agent_stalled_ms)
            if self.now_ms - since_ms > ttl_ms + SLACK_MS:
                raise Broken(f"2: {node.name} still answers, {self.now_ms - since_ms} ms after another was promoted")

    def note_written_off(self, nodes: dict[str, ModelNode], before: State, after: State) -> None:
        """Actions that the controller has ceased to wait for although their agent had not accepted them."""
        for name, record in before.nodes.items():
            pending, now = record.pending, after.nodes[name].pending
            if pending is None or now is not None:  # a fence takes the place of what may still be accepted before it
                continue
            if nodes[name].revision < pending.revision:
                self._written_off.add((name, pending.revision))

    def check_accepted(self, action: Action) -> None:
        """What the controller has given up as never accepted does not run later."""
        if (action.node, action.revision) in self._written_off:
            raise Broken(
                f"1: {op_name(action.op)} of revision {action.revision} runs on {action.node}, given up before"
            )

    def check_person_is_needed(self, nodes: dict[str, ModelNode], store: State) -> None:
        """While an eligible standby holds everything, nobody must be asked to accept a loss."""
        for name, record in store.nodes.items():
            able = name != store.primary and record.eligible and not nodes[name].has_fault and not record.faults
            if able and store.transition is None and not self.acknowledged - set(nodes[name].wal):
                raise AssertionError(f"a person is asked although {name} is eligible and has everything")

    def check_promotion(self, node: ModelNode) -> None:
        """Invariant 3, and one primary a term."""
        if self._primary_of_term.setdefault(node.term, node.name) != node.name:
            raise Broken(f"1: term {node.term} has two primaries")
        self.check_nothing_lost(node)

    def check_start(self, node: ModelNode) -> None:
        """A start as primary is in a term that is its own."""
        if self._primary_of_term.setdefault(node.term, node.name) != node.name:
            raise Broken(f"1: term {node.term} has two primaries")

    def _check_damage(self, node: ModelNode, what: str) -> None:
        """Invariant 4, as far as the controller could know."""
        if node.has_fault and self.now_ms - node.fault_since_ms > REPORT_AGE_MS_MAX and not self.person_asked:
            raise Broken(f"4: {node.name} {what} with an integrity fault")

    def note_visible(self, node: ModelNode) -> None:
        """It is open: whatever its WAL holds may be read, and what was acknowledged before must be there."""
        self.check_nothing_lost(node)
        self.acknowledged.update(node.wal[1:])


def begins_promotion(before: State, after: State) -> bool:
    """A transition has come to the step "promoting"."""
    was = before.transition is not None and before.transition.step == "promoting"
    return not was and after.transition is not None and after.transition.step == "promoting"


def can_acknowledge(node: ModelNode, nodes: dict[str, ModelNode]) -> bool:
    """It runs open (SIGSTOP or not: it may go on), and waits for nobody or for one who streams from it."""
    process = node.process
    if process is None or process.in_recovery or process.stage is Stage.CLOSED or process.stage is Stage.REPLICATING:
        return False
    if not process.names:
        return True
    return any(
        other.process is not None
        and other.process.in_recovery
        and other.process.upstream == node.name
        and other.process.name in process.names
        for other in nodes.values()
    )
