"""The booking rules, pure: what a $book means, which change of status is allowed, from when a slot may be taken.

Nothing here knows HTTP, JSON or SQL; times are aware datetimes, durations milliseconds.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

import msgspec


class Status(StrEnum):
    """Appointment.status (FHIR R4 appointmentstatus), as far as Locum keeps it."""

    PROPOSED = "proposed"
    PENDING = "pending"
    BOOKED = "booked"
    ARRIVED = "arrived"
    CHECKED_IN = "checked-in"
    FULFILLED = "fulfilled"
    NOSHOW = "noshow"
    CANCELLED = "cancelled"


BLOCKING = frozenset({Status.PENDING, Status.BOOKED, Status.ARRIVED, Status.CHECKED_IN, Status.FULFILLED})
"""An appointment in one of these keeps others out of its time (the exclusion constraints of schema.sql name the same)."""


class Intent(StrEnum):
    """What a $book asks for."""

    NEW = "new"
    CONFIRM = "confirm"
    CHANGE = "change"
    CANCEL = "cancel"
    MARK = "mark"
    """Somebody came, was seen, or did not come."""


FROM: dict[Intent, frozenset[Status]] = {
    Intent.NEW: frozenset({Status.PROPOSED}),
    Intent.CONFIRM: frozenset({Status.PENDING}),
    Intent.CHANGE: frozenset({Status.BOOKED}),
    Intent.CANCEL: frozenset({Status.PENDING, Status.BOOKED}),
    Intent.MARK: frozenset({Status.BOOKED, Status.ARRIVED, Status.CHECKED_IN}),
}
"""The statuses in which an appointment may be for each intent; everything else is refused."""

MARK_FROM: dict[Status, frozenset[Status]] = {
    Status.ARRIVED: frozenset({Status.BOOKED}),
    Status.CHECKED_IN: frozenset({Status.BOOKED, Status.ARRIVED}),
    Status.FULFILLED: frozenset({Status.ARRIVED, Status.CHECKED_IN}),
    Status.NOSHOW: frozenset({Status.BOOKED}),
}
"""From where each of the statuses that staff set may be reached."""

TO: dict[Intent, Status] = {
    Intent.NEW: Status.BOOKED,
    Intent.CONFIRM: Status.BOOKED,
    Intent.CHANGE: Status.BOOKED,
    Intent.CANCEL: Status.CANCELLED,
}
"""The status that each leads to."""

_ASKED: dict[Status, Intent] = {
    Status.PROPOSED: Intent.CONFIRM,
    Status.PENDING: Intent.CONFIRM,
    Status.BOOKED: Intent.CHANGE,
    Status.CANCELLED: Intent.CANCEL,
    **dict.fromkeys(MARK_FROM, Intent.MARK),
}


class Rules(msgspec.Struct, frozen=True):
    """The clinic's own limits. `cutoff_ms`: a slot that begins sooner is neither proposed nor booked. `hold_ms`: how
    long a hold keeps others out. `window_days_max`: the longest period of one $find."""

    cutoff_ms: int = 5 * 60_000
    hold_ms: int = 5 * 60_000
    window_days_max: int = 31


def intent(status: Status, *, exists: bool) -> Intent | None:
    """What a body's status asks of an appointment that has an id of ours (`exists`) or has none.

    None: not for a patient's frontend to ask (arrived, fulfilled and so on), or nothing to cancel.
    """
    asked = _ASKED.get(status)
    if exists:
        return asked
    return None if asked in (Intent.CANCEL, Intent.MARK, None) else Intent.NEW


def may(wanted: Intent, current: Status) -> bool:
    """Whether an appointment in `current` may be changed so. Cancelling what is cancelled changes nothing: allowed."""
    return current in FROM[wanted] or (wanted is Intent.CANCEL and current is Status.CANCELLED)


def earliest_start(now: datetime, rules: Rules) -> datetime:
    """A slot that begins before this is past its cut-off."""
    return now + timedelta(milliseconds=rules.cutoff_ms)


def hold_until(now: datetime, rules: Rules) -> datetime:
    """When a hold made now stops keeping others out."""
    return now + timedelta(milliseconds=rules.hold_ms)


def overlap(start: datetime, end: datetime, other_start: datetime, other_end: datetime) -> bool:
    """Whether two half-open periods [start, end) share an instant: appointments that touch do not."""
    return start < other_end and other_start < end


def window_fault(start: datetime, end: datetime, rules: Rules) -> str | None:
    """Why a period cannot be searched, as a sentence; None when it can."""
    if end <= start:
        return "end must be after start"
    if end - start > timedelta(days=rules.window_days_max):
        return f"a period of more than {rules.window_days_max} days is not searched at once"
    return None
