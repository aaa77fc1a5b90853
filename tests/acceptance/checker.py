"""Every booking that a client was promised against the rows of the primary: lost, doubled, wrong."""

from __future__ import annotations

import datetime
from collections import Counter
from typing import Any

import asyncpg
import msgspec

from tests.acceptance.workload import Booking, History

# The table is read by SQL of our own, not through the server: what it says of itself is what is being checked.
_ROWS = """
SELECT id::text AS id, status, lower(during) AS start, upper(during) AS "end", practitioner_id, patient_id
FROM appointment WHERE status = 'booked'
"""


class Findings(msgspec.Struct, frozen=True):
    """Ids of appointments. `lost`: acknowledged and not there. `doubled`: two booked rows for the same practitioner and
    time, or two rows for one request. `wrong`: there, with another time, practitioner or patient."""

    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    wrong: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Nothing was found."""
        return not (self.lost or self.doubled or self.wrong)


async def check(connection: asyncpg.Connection, history: History) -> Findings:
    """Compare with all rows of the primary as they are now."""
    rows = [dict(row) for row in await connection.fetch(_ROWS)]
    return compare(history, rows)


def compare(history: History, rows: list[dict[str, Any]]) -> Findings:
    """Pure: the findings for these rows."""
    by_id = {str(row["id"]): row for row in rows}
    acknowledged = {str(booking.appointment): booking for booking in history.acknowledged}
    lost = sorted(name for name in acknowledged if name not in by_id)
    wrong = sorted(name for name, booking in acknowledged.items() if name in by_id and _differs(by_id[name], booking))
    times = Counter((row["practitioner_id"], row["start"]) for row in rows)
    doubled = [str(row["id"]) for row in rows if times[row["practitioner_id"], row["start"]] > 1]
    # one proposal a booking: two different ids for one proposal would mean that a replay booked twice
    answers = Counter(str(booking.appointment) for booking in history.acknowledged)
    doubled += [name for name, count in answers.items() if count > 1]
    return Findings(tuple(lost), tuple(sorted(doubled)), tuple(wrong))


def _differs(row: dict[str, Any], booking: Booking) -> bool:
    proposal = booking.proposal
    return (
        row["start"] != datetime.datetime.fromisoformat(proposal.start)
        or row["end"] != datetime.datetime.fromisoformat(proposal.end)
        or str(row["practitioner_id"]) != proposal.practitioner
        or str(row["patient_id"]) != booking.patient
    )
