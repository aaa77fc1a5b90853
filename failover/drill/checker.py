"""What clients were told, against what they were told before and what lies in the database at the end. Pure.

Nothing that Locum says of itself is taken as proof: the rows are read by SQL of the drill's own, the history is the
clients'. An operation of unknown outcome may have happened or not; whatever contradicts both is a finding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum

import msgspec

from failover.drill.history import Do, Facts, Operation, Outcome

HELD = "pending"
ACTIVE = frozenset({"booked", HELD})
"""Statuses that take a place in somebody's day."""
STALE_SLACK_S = 1.0


class Kind(StrEnum):
    """Which promise was broken."""

    LOST = "lost"
    """Acknowledged, and not there; or there as it was before."""
    DUPLICATED = "duplicated"
    """One request, two appointments."""
    OVERLAPPING = "overlapping"
    """Somebody, or a room, is in two places at once."""
    WRONG_CONTENT = "wrong_content"
    """There, and not as it was acknowledged."""
    UNASKED = "unasked"
    """There, and nobody asked for it."""
    STALE_READ = "stale_read"
    """An answer older than what had been acknowledged, and it does not say so."""
    UNREADABLE = "unreadable"
    """The rows cannot be read at the end."""
    OTHER_ANSWER = "other_answer"
    """Two answers for one idempotency key that do not say the same."""


class Finding(msgspec.Struct, frozen=True, order=True):
    """One broken promise. `operations`: numbers of those that show it."""

    kind: Kind
    appointment: str
    sentence: str
    operations: tuple[int, ...] = ()


Rows = dict[str, Facts]
"""Appointments by id, as they lie in the database after everything has healed."""


def check(history: Iterable[Operation], rows: Rows) -> list[Finding]:
    """All findings, sorted; none when every promise was kept."""
    operations = list(history)
    checks: list[Callable[[list[Operation], Rows], Iterator[Finding]]] = [
        _lost_or_wrong,
        _unasked,
        _overlapping,
        _stale_reads,
        _other_answers,
    ]
    return sorted({finding for find in checks for finding in find(operations, rows)})


def _lost_or_wrong(operations: list[Operation], rows: Rows) -> Iterator[Finding]:
    for appointment, newest in _newest_promises(operations).items():
        row, promised = rows.get(appointment), newest.found
        if promised is None or (promised.status == HELD and (row is None or row.status != HELD)):
            continue  # a hold promises nothing beyond its expiry
        if row is None:
            yield Finding(
                Kind.LOST, appointment, f"{newest.do} was acknowledged, and no row is there", (newest.number,)
            )
        elif row.version < promised.version:
            sentence = f"version {promised.version} was acknowledged, and version {row.version} is there"
            yield Finding(Kind.LOST, appointment, sentence, (newest.number,))
        elif row.version == promised.version:
            if not row.means_the_same(promised):
                sentence = f"acknowledged as {_said(promised)}, and is there as {_said(row)}"
                yield Finding(Kind.WRONG_CONTENT, appointment, sentence, (newest.number,))
        elif not _is_explained(row, appointment, operations):
            sentence = f"version {row.version} is there, {_said(row)}, and nobody asked for it"
            yield Finding(Kind.WRONG_CONTENT, appointment, sentence, (newest.number,))


def _unasked(operations: list[Operation], rows: Rows) -> Iterator[Finding]:
    """Rows beyond those that were promised: each must be what one request of unknown outcome asked for, and only it."""
    promised = {operation.appointment for operation in operations if operation.is_acknowledged_write}
    open_requests: dict[tuple[object, ...], int] = defaultdict(int)
    for operation in _first_per_key(operations):
        if operation.do in (Do.BOOK, Do.HOLD) and operation.outcome is Outcome.UNKNOWN and operation.asked is not None:
            open_requests[_place(operation.asked)] += 1
    asked = {_place(operation.asked) for operation in operations if operation.asked is not None}
    for appointment, row in rows.items():
        if appointment in promised:
            continue
        place = _place(row)
        if open_requests[place] > 0:
            open_requests[place] -= 1
        elif place in asked:
            yield Finding(Kind.DUPLICATED, appointment, f"a second appointment for one request: {_said(row)}")
        else:
            yield Finding(Kind.UNASKED, appointment, f"nobody asked for it: {_said(row)}")


def _overlapping(_operations: list[Operation], rows: Rows) -> Iterator[Finding]:
    for what in ("practitioner", "location", "device", "patient"):
        days: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for appointment, row in rows.items():
            who = getattr(row, what)
            if row.status in ACTIVE and who is not None:
                days[who].append((row.start_s, row.end_s, appointment))
        for who, taken in days.items():
            busy_until_s, one = min(taken)[0], ""
            for start_s, end_s, other in sorted(taken):
                if start_s < busy_until_s:
                    yield Finding(Kind.OVERLAPPING, other, f"{what} {who} is in {one} at the same time")
                if end_s > busy_until_s:
                    busy_until_s, one = end_s, other


def _stale_reads(operations: list[Operation], _rows: Rows) -> Iterator[Finding]:
    promises: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        if operation.is_acknowledged_write and operation.appointment is not None:
            promises[operation.appointment].append(operation)
    for read in operations:
        if read.do is not Do.READ or read.outcome is not Outcome.OK or read.appointment is None:
            continue
        shown = read.found.version if read.found is not None else 0
        admitted_s = 0.0 if read.stale_s is None else read.stale_s + STALE_SLACK_S
        for write in promises[read.appointment]:
            is_older = write.ended_s is not None and write.ended_s < read.began_s - admitted_s
            if is_older and write.found is not None and write.found.version > shown:
                sentence = f"a read shows version {shown}, after version {write.found.version} had been acknowledged"
                yield Finding(Kind.STALE_READ, read.appointment, sentence, (write.number, read.number))
                break


def _other_answers(operations: list[Operation], _rows: Rows) -> Iterator[Finding]:
    first: dict[str, Operation] = {}
    for operation in operations:
        if not operation.is_acknowledged_write or operation.key is None:
            continue
        before = first.setdefault(operation.key, operation)
        if before.appointment != operation.appointment:
            sentence = f"one key gave {before.appointment} and {operation.appointment}"
            yield Finding(Kind.DUPLICATED, str(operation.appointment), sentence, (before.number, operation.number))
        elif before.found != operation.found:
            yield Finding(
                Kind.OTHER_ANSWER,
                str(operation.appointment),
                "one key gave two answers that differ",
                (before.number, operation.number),
            )


def _newest_promises(operations: list[Operation]) -> dict[str, Operation]:
    """For each appointment the acknowledged write of the highest version."""
    newest: dict[str, Operation] = {}
    for operation in operations:
        if not operation.is_acknowledged_write or operation.appointment is None or operation.found is None:
            continue
        known = newest.get(operation.appointment)
        if known is None or known.found is None or operation.found.version > known.found.version:
            newest[operation.appointment] = operation
    return newest


def _is_explained(row: Facts, appointment: str, operations: list[Operation]) -> bool:
    """A write of this appointment whose outcome is not known asked for just this."""
    return any(
        operation.appointment == appointment
        and operation.outcome is Outcome.UNKNOWN
        and operation.asked is not None
        and operation.asked.means_the_same(row)
        for operation in operations
    )


def _first_per_key(operations: list[Operation]) -> Iterator[Operation]:
    """Requests of unknown outcome, each key once, and none of which another try was answered."""
    answered = {operation.key for operation in operations if operation.outcome is not Outcome.UNKNOWN}
    seen: set[str | None] = set()
    for operation in operations:
        if operation.key is None or (operation.key not in answered and operation.key not in seen):
            seen.add(operation.key)
            yield operation


def _place(facts: Facts) -> tuple[object, ...]:
    return facts.practitioner, facts.start_s, facts.patient


def _said(facts: Facts) -> str:
    return f"{facts.status} {facts.practitioner} at {facts.start_s}, {facts.patient or 'nobody'}"
