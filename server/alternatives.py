"""Free times that are offered when the one that was asked for is taken: up to three, of the same practitioner."""

from __future__ import annotations

import time
import uuid
from zoneinfo import ZoneInfo

from server import context, store
from server.context import Context
from server.errors import Alternative, Refusal
from server.identity import proposal_id
from server.scheduling import earliest_start

_WITHIN_S = 1.0


async def with_alternatives(shared: Context, refusal: Refusal, slot: uuid.UUID | None, until_s: float) -> Refusal:
    """The same refusal, with free times where the slot was taken and they are known soon."""
    if refusal.detail != "slot-taken" or slot is None:
        return refusal
    query = store.query(store.ALTERNATIVES, slot, earliest_start(context.now(), shared.rules))
    try:
        answer = await shared.replay.read(query, min(until_s, time.monotonic() + _WITHIN_S))
    except Refusal:
        return refusal
    if answer.stale_s is None:
        refusal.alternatives = tuple(_offered(store.slot_row(row)) for row in answer.value)
    return refusal


def _offered(row: store.SlotRow) -> Alternative:
    when = row.starts_at.astimezone(ZoneInfo(row.timezone))
    return Alternative(
        f"Appointment/{proposal_id(row.id)}", f"{when:%Y-%m-%d %H:%M} {row.timezone}, {row.practitioner_name}"
    )
