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
        node, at = self._memory.node.name, wall_now()
        evidence = Evidence(what, f"agent {node}", at, value)
        fault = Fault(kind, confidence, at, f"node {node}: {sentence}", (evidence,), places)
        if self._memory.log_faults.add(fault):
            _log.error("agent.scrub_found", kind=kind.value, sentence=sentence, value=value)
            self._publish("scrub_found")
