"""What a check has found becomes a fault of this node: it stays until the node's content was replaced."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from replication.memory import Memory
from replication.model import Evidence, Fault, FaultKind, Place
from replication.wall_clock import wall_now

_log = structlog.get_logger()

PROOF, SUSPICION = 1.0, 0.5
"""Proof convicts; a suspicion raises an alarm (`Fault.is_proof`)."""


class Findings:
    """`publish` is told at once, so that detection waits for no poll."""

    def __init__(self, memory: Memory, publish: Callable[[str], None]) -> None:
        self._memory = memory
        self._publish = publish

    def add(
        self,
        kind: FaultKind,
        sentence: str,
        *,
        what: str,
        value: str,
        places: tuple[Place, ...] = (),
        confidence: float = PROOF,
    ) -> None:
        """A fault, or more places of one that is known. `what` was measured, `value` is raw."""
        node = self._memory.node.name
        fault = self._fault(kind, f"node {node}: {sentence}", what, value, places, confidence)
        if self._memory.log_faults.add(fault):
            self._tell(fault, value)

    def disprove(self, kind: FaultKind, is_whole: Callable[[Place], bool]) -> None:
        """Places that only a suspicion named were looked at again, and are whole."""
        if self._memory.log_faults.disproved(kind, is_whole):
            _log.info("agent.scrub_suspicion_ended", kind=kind.value)
            self._publish("scrub_found")

    def add_to_primary(
        self, kind: FaultKind, sentence: str, *, what: str, value: str, places: tuple[Place, ...] = ()
    ) -> None:
        """A proof in WAL: of this node when it is the primary, else of the one whose WAL it has received."""
        facts = self._memory.sql.facts
        if facts is None or not facts.in_recovery:
            self.add(kind, sentence, what=what, value=value, places=places)
            return
        fault = self._fault(kind, f"the primary: {sentence}", what, value, places, PROOF)
        if self._memory.upstream_faults.add(fault):
            self._tell(fault, value)

    def _fault(
        self, kind: FaultKind, sentence: str, what: str, value: str, places: tuple[Place, ...], confidence: float
    ) -> Fault:
        at = wall_now()
        evidence = Evidence(what, f"agent {self._memory.node.name}", at, value)
        return Fault(kind, confidence, at, sentence, (evidence,), places)

    def _tell(self, fault: Fault, value: str) -> None:
        _log.error("agent.scrub_found", kind=fault.kind.value, sentence=fault.sentence, value=value)
        self._publish("scrub_found")
