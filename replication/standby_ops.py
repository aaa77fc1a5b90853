"""Actions on a running standby: Promote and Certify."""

from __future__ import annotations

import asyncio

from replication.actions import Certify, Promote
from replication.certify import certify
from replication.errors import ActionFailed
from replication.local_node import LocalNode, Outcome
from replication.model import FaultKind, Reason, Role, Stage
from replication.promotion import Steps, promote
from replication.slots import ensure_slots

_CLIENTS_FIRST_S = 0.15
"""What nobody waits for is done so long after a promotion: until then clients need all the machine has."""


async def promote_standby(local: LocalNode, op: Promote, revision: int) -> Outcome:
    """The promotion sequence of DESIGN section 6; the report says primary and open as soon as recovery has ended."""

    async def write_settings() -> None:
        # Intended already (intent.py): no upstream, and the new term.
        await local.write_settings(revision, durable=False)

    steps = Steps(write_settings, local.supervisor.reload, local.until_recorded)
    timeline, lsn = await promote(local.node, op, steps, local.spare.take())
    persisted = asyncio.ensure_future(
        local.store.change(
            configured_role=Role.PRIMARY,
            configured_name=None,
            stage=Stage.OPEN,
            names=(),
            names_revision=revision,
            promoted_lsn=lsn,
            stop_before_lsn=None,
            growth=None,
        )
    )
    # Told before the next probe: every client waits for this.
    local.memory.sql.promoted(timeline)
    if local.memory.sql.facts is None:
        await local.refresh()
    local.publish("promoted")
    local.memory.redo_failure = None
    local.memory.log_faults.repaired(FaultKind.REDO_FAILED)
    await persisted
    await asyncio.sleep(_CLIENTS_FIRST_S)
    # An open primary that waits for nobody runs with the very values that the standby without an upstream has read.
    await local.write_settings(revision, durable=False)
    await local.refresh()
    await ensure_slots(local, op.slots)
    await local.refresh()
    return Outcome(f"promoted to timeline {timeline}")


async def certify_standby(local: LocalNode, op: Certify, revision: int) -> Outcome:
    """Check the pages of the booking tables; the certificate is kept in the agent's state."""
    del revision
    facts = local.memory.sql.facts
    if facts is None or facts.timeline is None:
        raise ActionFailed(Reason.WRONG_STATE, "the standby's timeline is not known yet")
    certificate = await certify(local.node, op, facts.timeline)
    return Outcome(f"{certificate.pages} pages are clean", {"certificate": certificate})
