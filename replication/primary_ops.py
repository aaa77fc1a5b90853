"""Actions on a running primary: SetStage, SetNames, Grow, EnsureSlot, Checkpoint."""

from __future__ import annotations

from replication.actions import Checkpoint, EnsureSlot, Grow, SetNames, SetStage
from replication.growth_probe import prove_growth
from replication.local_node import LocalNode, Outcome, written_from
from replication.model import Stage
from replication.retries import until
from replication.settings_file import format_names
from replication.slots import ensure_slots
from replication.sql_write import bounded

_PROBE_COMMIT = "SELECT pg_logical_emit_message(true, 'locum.open', '')"
_PROBE_DEADLINE_S = 10.0
_CHECKPOINT_DEADLINE_S = 120.0
_SHOW_DEADLINE_MS = 3_000
_SHOW_POLL_MS = 2


async def set_stage(local: LocalNode, op: SetStage, revision: int) -> Outcome:
    """Let more clients in. Before `open` a synchronous commit that began after the start must have come back: rows
    whose commit was waiting at a crash are visible after recovery although the standby may lack them."""
    if op.stage is Stage.OPEN:
        async with local.connection() as connection:
            work = connection.execute(_PROBE_COMMIT)
            await bounded(connection, work, deadline_s=_PROBE_DEADLINE_S, what="the probe commit before opening")
    await local.store.change(stage=op.stage)
    await local.write_settings(revision)
    await local.reload()
    return Outcome(f"the primary is {op.stage}")


async def set_names(local: LocalNode, op: SetNames, revision: int) -> Outcome:
    """Write the list of names and return when the primary shows it."""
    await local.write_settings(revision)
    await _show_names(local, op.names)
    await local.refresh()
    return Outcome(f"waits for {', '.join(op.names)}" if op.names else "waits for nobody")


async def grow(local: LocalNode, op: Grow, revision: int) -> Outcome:
    """Set the name, then prove that commits wait for it; told in `growth`, proved or not."""
    await local.write_settings(revision)
    await _show_names(local, (op.name,))
    growth = await prove_growth(local.node, local.peer(op.standby), op, revision)
    await local.refresh()
    return Outcome(growth.sentence, {"growth": growth})


async def ensure_slot(local: LocalNode, op: EnsureSlot, revision: int) -> Outcome:
    """The slot is there and holds WAL."""
    del revision
    await ensure_slots(local, (op.slot,))
    await local.refresh()
    return Outcome(f"the slot {op.slot} is there")


async def checkpoint(local: LocalNode, op: Checkpoint, revision: int) -> Outcome:
    """An immediate checkpoint."""
    del op, revision
    async with local.connection() as connection:
        work = connection.execute("CHECKPOINT")
        await bounded(connection, work, deadline_s=_CHECKPOINT_DEADLINE_S, what="the checkpoint")
    return Outcome("the checkpoint is done")


async def _show_names(local: LocalNode, names: tuple[str, ...]) -> None:
    wanted = format_names(written_from(local.state).names)
    async with local.connection() as connection:
        local.supervisor.reload()

        async def shown() -> bool:
            return bool(await connection.fetchval("SHOW synchronous_standby_names") == wanted)

        await until(
            shown,
            every_ms=_SHOW_POLL_MS,
            deadline_ms=_SHOW_DEADLINE_MS,
            sentence=f"the primary does not show the names {names} yet",
        )
