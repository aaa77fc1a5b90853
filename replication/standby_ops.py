"""Actions on a running standby: Promote and Certify."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from replication.actions import Certify, Promote
from replication.certify import certify
from replication.errors import ActionFailed
from replication.local_node import LocalNode, Outcome
from replication.model import Reason, Role, Stage
from replication.postmaster import PostmasterProcess
from replication.proc import children_titled
from replication.promotion import promote
from replication.slots import ensure_slots


async def promote_standby(local: LocalNode, op: Promote, revision: int) -> Outcome:
    """The promotion sequence of DESIGN section 6; the report says primary and open as soon as recovery has ended."""

    async def clear_upstream() -> None:
        # Persisted already with the revision (intent.py): no upstream, and the new term.
        await local.write_settings(revision, durable=False)
        local.supervisor.reload()
        _hang_up_startup(local.supervisor.process)

    timeline, lsn = await promote(local.node, op, clear_upstream, local.spare.take())
    persisted = asyncio.ensure_future(
        local.store.change(
            configured_role=Role.PRIMARY,
            configured_name=None,
            stage=Stage.OPEN,
            names=(),
            names_revision=revision,
            promoted_lsn=lsn,
            growth=None,
        )
    )
    await local.refresh()
    local.publish("promoted")
    await persisted
    await local.write_settings(revision)
    await local.reload()
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


def _hang_up_startup(postmaster: PostmasterProcess | None) -> None:
    """SIGHUP the startup process itself: it asks for walreceivers, and must know at once that there is no upstream."""
    if postmaster is None:
        return
    for pid in children_titled(postmaster.identity, "startup"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGHUP)
