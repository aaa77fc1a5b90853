"""The faults that PostgreSQL's own log has shown on this node's disk, until the disk's content was replaced."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from replication.faults import fault_of_line, place_of, told_sqlstate
from replication.log_tail import LogLine
from replication.model import Evidence, Fault, FaultKind, Place
from replication.wall_clock import wall_now

PLACES_MAX = 20
_PASSING_S = 60.0
_PASSING = (FaultKind.STORAGE_FULL, FaultKind.READ_ONLY, FaultKind.OVERLOAD)
"""These end without a repair: they are told for as long as the log repeats them."""


class LogFaults:
    """One fault a kind, with the first line that showed it and every place that was named since."""

    def __init__(self, node: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._monotonic = monotonic
        self._found: dict[FaultKind, Fault] = {}
        self._seen_s: dict[FaultKind, float] = {}

    def note(self, line: LogLine) -> bool:
        """Take a line in; True when it shows a fault, or a place, that was not known."""
        kind = fault_of_line(
            line.error_severity, line.state_code, line.message, detail=line.detail, context=line.context
        )
        if kind is None:
            return False
        self._forget_what_passed()
        known = self._found.get(kind)
        # A suspicion that some other check had must not hide what PostgreSQL itself has said.
        fault = self._with_place(known, line) if known is not None and known.is_proof else self._new(kind, line)
        self._found[kind] = fault
        self._seen_s[kind] = self._monotonic()
        return fault is not known

    def faults(self) -> tuple[Fault, ...]:
        """What is known now."""
        self._forget_what_passed()
        return tuple(self._found.values())

    def add(self, fault: Fault) -> bool:
        """What this agent has found by itself, by looking at the node's files. True when it, or a place of it, is new."""
        known = self._found.get(fault.kind)
        if known is None:
            self._found[fault.kind] = fault
            return True
        new = [place for place in fault.places if place not in known.places][: PLACES_MAX - len(known.places)]
        if fault.confidence <= known.confidence and not new:
            return False
        first = fault if fault.confidence > known.confidence else known
        self._found[fault.kind] = msgspec.structs.replace(first, places=(*known.places, *new))
        return True

    def repaired(self, kind: FaultKind) -> None:
        """What was damaged was made anew in place; if it is not so, the next look finds it again."""
        self._found.pop(kind, None)
        self._seen_s.pop(kind, None)

    def disproved(self, kind: FaultKind, is_whole: Callable[[Place], bool]) -> bool:
        """Places of a suspicion that were looked at again and are whole; it ends with the last of them. True when any was."""
        known = self._found.get(kind)
        if known is None or known.is_proof:
            return False
        left = tuple(place for place in known.places if not is_whole(place))
        if left == known.places:
            return False
        if left:
            self._found[kind] = msgspec.structs.replace(known, places=left)
        else:
            self.repaired(kind)
        return True

    def clear(self) -> None:
        """The data directory was made anew."""
        self._found.clear()
        self._seen_s.clear()

    def _new(self, kind: FaultKind, line: LogLine) -> Fault:
        at = wall_now()
        value = f"{line.error_severity} {line.state_code}: {line.message}"
        evidence = Evidence("PostgreSQL's log", f"agent {self._node}", line.timestamp or at, value)
        place = place_of(f"{line.message} {line.detail}")
        sentence = f"PostgreSQL of node {self._node} said: {line.message}"
        told = told_sqlstate(line.state_code, line.message)
        confidence = 0.95 if told in ("XX001", "XX002", "58030") else 0.8
        return Fault(kind, confidence, at, sentence, (evidence,), (place,) if place is not None else ())

    def _with_place(self, fault: Fault, line: LogLine) -> Fault:
        place = place_of(f"{line.message} {line.detail}")
        if place is None or place in fault.places or len(fault.places) >= PLACES_MAX:
            return fault
        return msgspec.structs.replace(fault, places=(*fault.places, place))

    def _forget_what_passed(self) -> None:
        now = self._monotonic()
        for kind in _PASSING:
            if kind in self._found and now - self._seen_s.get(kind, now) > _PASSING_S:
                del self._found[kind]
