"""Errors of the server: what a client did, or what the database could not do just now."""

from __future__ import annotations

from typing import NamedTuple

from replication.model import Place


class ServerError(Exception):
    """The root of this package's errors."""


class Alternative(NamedTuple):
    """A free time that is offered with a refusal: a proposal's reference, and a sentence for a person."""

    reference: str
    sentence: str


class Refusal(ServerError):
    """A request is answered with a 4xx or 5xx and an OperationOutcome.

    `issue` is a code of FHIR's issue-type value set; `detail` is Locum's own word for it (server/refusals.py);
    `retry_after_s` becomes the header, `challenge` WWW-Authenticate; `expression` is the FHIRPath of the element that is wrong.
    """

    def __init__(
        self,
        status: int,
        issue: str,
        sentence: str,
        *,
        detail: str | None = None,
        retry_after_s: int | None = None,
        expression: str | None = None,
        challenge: str | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.issue = issue
        self.sentence = sentence
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.expression = expression
        self.challenge = challenge
        self.alternatives: tuple[Alternative, ...] = ()


class pointing_at:  # noqa: N801  used as a statement, like contextlib.suppress
    """A refusal from within that names no element yet points at this one (FHIRPath)."""

    def __init__(self, expression: str) -> None:
        self._expression = expression

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Refusal) and error.expression is None:
            error.expression = self._expression


class TryAgain(ServerError):
    """An attempt ended without an answer that may be given: the request is held and run again (server/replay.py)."""


class NoConnection(TryAgain):
    """No usable connection to the node within the time given. Nothing was sent."""


class ConnectionLost(TryAgain):
    """The connection ended, or was given up, while a statement ran on it: a write's outcome is unknown."""


class OutcomeUnknown(TryAgain):
    """PostgreSQL reported success, but its wait for the standby was cancelled: not an acknowledgement (syncrep.c)."""


class Superseded(TryAgain):
    """An answer came back on a connection of an older term: it is thrown away and the operation runs again."""


class NotServing(TryAgain):
    """The node answers, but not as the primary of our term: recovering, read-only, shutting down, full or damaged.

    `sqlstate` is PostgreSQL's own word, None when the node's role or term is wrong; `place` is what it says is damaged.
    """

    def __init__(self, sentence: str, sqlstate: str | None = None, place: Place | None = None) -> None:
        super().__init__(sentence)
        self.sqlstate = sqlstate
        self.place = place


class IndexMisleads(NotServing):
    """An appointment's primary key points at two rows, or at another's: its table and its index disagree. A request waits until
    the node is replaced or the index made anew; whoever mends the rows has to have that done."""


class DatabaseConflict(ServerError):
    """Two bookings want the same: a constraint (23P01) or a deadlock between two constraints (40P01)."""

    def __init__(self, sqlstate: str, constraint: str | None) -> None:
        super().__init__(f"{sqlstate} {constraint or ''}")
        self.sqlstate = sqlstate
        self.constraint = constraint

    @property
    def is_deadlock(self) -> bool:
        """Nobody knows yet who was first."""
        return self.sqlstate == "40P01"


class ReceiptsUnreadable(ServerError):
    """The receipts of an earlier server are there and cannot be read: starting without them could hide a loss."""


class UnexpectedDatabaseError(ServerError):
    """PostgreSQL refused a statement for a reason that this program should have ruled out: a defect of ours.

    It names the SQLSTATE and the constraint only: PostgreSQL's own words may quote a patient's data.
    """
