"""Acknowledged writes, what became of them, and what a server says of itself."""

from __future__ import annotations

import msgspec

from replication.model.faults import Fault


class Receipt(msgspec.Struct, frozen=True):
    """What a server noted of one acknowledged write before it answered, without the row itself.

    `digest`: hex, as the database's own function `locum_digest` gives it for the row. `insert_lsn`: where the WAL was
    when the transaction was about to commit: all of it but its commit record lies below. It is compared only with LSNs of
    the same `timeline` (DESIGN section 4, receipts).
    """

    id: str
    version: int
    timeline: int
    insert_lsn: int
    digest: str


class ReceiptCheck(msgspec.Struct, frozen=True):
    """A server's receipts compared by content with the rows of the primary of `term`.

    acknowledged = present + restored + lost. `missing`: ids of the first rows that are missing, older or altered.
    """

    term: int
    acknowledged: int
    present: int
    restored: int = 0
    lost: int = 0
    double_booked: int = 0
    sealed: int = 0
    """Of the rows that are there, those that bear a seal and fit it. A row that does not fit counts as lost until it is restored."""
    missing: tuple[str, ...] = ()
    structure: tuple[str, ...] | None = None
    """What amcheck says of the booking tables and their indexes, once in a term; None where it did not come to an end."""
    reindexed: tuple[str, ...] = ()
    """Tables whose indexes were made anew before that, since rows had been put back or amcheck had found damage."""
    began_ms_ago: int = 0
    """When the report that carries it was sent: rows seen before a restart say nothing of what the restarted primary
    holds."""


class ReceiptsFound(msgspec.Struct, frozen=True):
    """What `CheckReceipts` found on a primary that is still closed: all that servers have acknowledged against its rows.

    `highest_lsn`: of the receipts of the node's own timeline; 0 when there is none.
    """

    revision: int
    incarnation: str
    acknowledged: int
    present: int
    highest_lsn: int
    missing: tuple[str, ...] = ()


class ServerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one server says of the primary that it follows; posted to `/v1/evidence` at once on a change, else every
    second. All ages are in ms at the time of sending."""

    server: str
    term: int
    phase: str
    """Phase of the topology record that it obeys: with `switching_over`, new writes are held."""
    primary: str | None = None
    writes_in_flight: int = 0
    held_requests: int = 0
    writes_failing_ms: int | None = None
    """How long no write has come back although some were tried; None while writes succeed or none are tried."""
    connect_error: str | None = None
    """`refused`, `timeout`, `reset` or an SQLSTATE: how the last attempt to reach the primary failed."""
    faults: tuple[Fault, ...] = ()
    receipts: ReceiptCheck | None = None
    """The newest check of this server's receipts; None until one ended."""
    receipts_problem: str | None = None
    """Why receipts do not reach their disk; None while they do."""
