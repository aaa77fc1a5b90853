"""Actions that end a node's postmaster, or lift such an end: Stop, Fence, Unfence."""

from __future__ import annotations

import time

from replication.actions import Fence, Stop, Unfence
from replication.control_file import read_control
from replication.errors import ActionFailed
from replication.heartbeat import HEARTBEAT_NAME
from replication.local_node import LocalNode, Outcome
from replication.model import PlannedStop, Postmaster, Reason, Role, format_lsn
from replication.node import Node
from replication.retries import until
from replication.tools import run_tool

SHUT_DOWN = "shut down"
_WAITERS = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name <> $1)"
_WAITERS_POLL_MS = 20
_READ_DEADLINE_S = 5.0


async def stop(local: LocalNode, op: Stop, revision: int) -> Outcome:
    """Wait until no commit waits for the standby, then stop fast, and remember where; at the deadline fence."""
    del revision
    return await stop_node(local, op.deadline_ms)


async def stop_node(local: LocalNode, deadline_ms: int) -> Outcome:
    """See `stop`; also the agent's own end. Raises ActionFailed(DEADLINE) when it had to be fenced."""
    end = time.monotonic() + deadline_ms / 1000

    async def none_waits() -> bool:
        # While it starts nobody can have written; a heartbeat's wait is nobody's loss.
        if local.supervisor.postmaster is not Postmaster.RUNNING:
            return True
        async with local.connection() as connection:
            return not await connection.fetchval(_WAITERS, HEARTBEAT_NAME)

    try:
        sentence = "commits still wait for the standby"
        await until(none_waits, every_ms=_WAITERS_POLL_MS, deadline_ms=deadline_ms, sentence=sentence)
    except ActionFailed as waited:
        await local.supervisor.fence()
        await local.store.change(fenced=True)
        raise ActionFailed(Reason.DEADLINE, f"fenced, because {waited}") from waited
    if not await local.supervisor.stop(max(0.1, end - time.monotonic())):
        await local.store.change(fenced=True)
        raise ActionFailed(Reason.DEADLINE, f"fenced, because it had not stopped after {deadline_ms} ms")
    planned = await remember_stop(local)
    return Outcome("stopped", {"planned_stop": planned})


async def fence_node(local: LocalNode, op: Fence, revision: int) -> Outcome:
    """Every process of the node is gone when this returns."""
    del revision
    fenced = await local.supervisor.fence()
    held = " until an operator lifts it" if op.hold else ""
    return Outcome(f"{fenced.killed} processes killed in {fenced.took_ms:.0f} ms; fenced{held}")


async def unfence(local: LocalNode, op: Unfence, revision: int) -> Outcome:
    """An operator's fence no longer holds; nothing is started."""
    del local, op, revision
    return Outcome("the operator's fence is lifted", {"fence_held": False})


async def remember_stop(local: LocalNode) -> PlannedStop | None:
    """What pg_control says of a primary that was just stopped cleanly; None for a standby."""
    if local.state.configured_role is not Role.PRIMARY:
        return None
    control = await read_control(local.node)
    if control.state != SHUT_DOWN:
        return None
    return PlannedStop(timeline=control.timeline, checkpoint_lsn=control.checkpoint_lsn, intact=True)


async def check_planned_stop(node: Node, planned: PlannedStop) -> PlannedStop:
    """The same with `intact` as it is now: pg_control still ends there, and the checkpoint's record can be read."""
    try:
        control = await read_control(node)
        intact = control.state == SHUT_DOWN and control.checkpoint_lsn == planned.checkpoint_lsn
        if intact:
            await run_tool(
                node.installation.command(
                    "pg_waldump", f"--path={node.data_dir / 'pg_wal'}", f"--timeline={planned.timeline}",
                    f"--start={format_lsn(planned.checkpoint_lsn)}", "--limit=1", "--quiet",
                ),
                deadline_s=_READ_DEADLINE_S,
            )  # fmt: skip
    except ActionFailed:
        intact = False
    return PlannedStop(timeline=planned.timeline, checkpoint_lsn=planned.checkpoint_lsn, intact=intact)
