"""The physical replication slots of standbys, on the primary."""

from __future__ import annotations

from replication.local_node import LocalNode

_LOST = """
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
WHERE slot_name = $1 AND NOT active AND wal_status IN ('lost', 'unreserved')
"""
_MISSING = "SELECT NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = $1)"
_MAKE = "SELECT pg_create_physical_replication_slot($1, immediately_reserve => true)"


async def ensure_slots(local: LocalNode, slots: tuple[str, ...]) -> None:
    """Make each slot, reserving WAL at once; one that has lost its WAL and is not in use is made anew.

    Making a slot writes no WAL and waits for no standby. Raises ActionFailed.
    """
    if not slots:
        return
    async with local.connection() as connection:
        for slot in slots:
            await connection.execute(_LOST, slot)
            if await connection.fetchval(_MISSING, slot):
                await connection.execute(_MAKE, slot)
