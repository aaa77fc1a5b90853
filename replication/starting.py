"""Actions that make or start a node: InitDb, StartPrimary, StartStandby, CompareWal, Rebuild."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from replication import data_directory
from replication.actions import CompareWal, InitDb, Rebuild, StartPrimary, StartStandby
from replication.backup_wal import check_backup_wal
from replication.closed_start import check_closed, compare_wal, prove_history, read_own_end
from replication.difference.files import Unfit
from replication.difference.pages_file import Copied
from replication.difference.target import copy_differences
from replication.errors import ActionFailed
from replication.local_node import LocalNode, Outcome
from replication.model import FaultKind, Reason
from replication.rebuild import rebuild
from replication.scrub.findings import Findings
from replication.scrub.post_mortem import WITHIN_S
from replication.self_test import SelfTestFailed, self_test
from replication.slots import ensure_slots
from replication.threads import in_thread
from replication.volumes import volumes
from replication.wire.errors import WireError

_log = structlog.get_logger()

_SELF_TEST_S = 120.0
_LOOK_BACK_S = WITHIN_S + 1.0


async def start_primary(local: LocalNode, op: StartPrimary, revision: int) -> Outcome:
    """Start closed, with the list of names written before, and prove that it is closed by a refused connection."""
    await local.write_settings(revision)
    await local.supervisor.start(standby=False)
    try:
        await check_closed(local.node)
    except ActionFailed:
        # Closed is a property of this start: one that is not closed must not go on.
        await local.supervisor.fence()
        raise
    await ensure_slots(local, op.slots)
    await local.refresh()
    return Outcome("started closed")


async def start_standby(local: LocalNode, op: StartStandby, revision: int) -> Outcome:
    """Prove that the own history is the upstream's, then start under the new name; it is consistent when this ends.

    Without an upstream nothing is proved: the node was eligible and is to be promoted.
    """
    if op.upstream is not None:
        await prove_history(local.node, local.peer(op.upstream), op.upstream)
    await local.write_settings(revision)
    await local.supervisor.start(standby=True)
    if op.stop_before_lsn is None:
        await resume_replay(local)  # held at its target, it would end recovery: that is for Promote to do
    await local.refresh()
    follows = f"follows {op.upstream} as {op.name}" if op.upstream is not None else "follows nobody"
    return Outcome(f"started as a standby that {follows}")


async def init_db(local: LocalNode, op: InitDb, revision: int) -> Outcome:
    """A new cluster in the empty directory."""
    del op, revision
    await data_directory.initdb(local.node)
    await local.look_at_data()
    return Outcome("the cluster was made", {"rebuilt_revision": 0, "schema_applied": False})


async def compare_with_peer(local: LocalNode, op: CompareWal, revision: int) -> Outcome:
    """Compare the WAL of this stopped node with the eligible peer's, or only see where it ends; told in `comparison`."""
    if op.peer is None:
        comparison = await read_own_end(local.node, revision)
    else:
        comparison = await compare_wal(local.node, local.peer(op.peer), op.peer, revision)
    return Outcome(comparison.sentence, {"comparison": comparison})


async def rebuild_node(local: LocalNode, op: Rebuild, revision: int) -> Outcome:
    """Replace the data directory; until the end it counts as half-built and cannot be started.

    So it does when the source's WAL cannot be read to the end of the backup: it is copied anew, not started in vain.
    """
    with contextlib.suppress(TimeoutError):  # it ends by itself before
        async with asyncio.timeout(_LOOK_BACK_S):
            await local.memory.looked_back.wait()
    if op.self_test_mb:
        await _test_disk(local, op.self_test_mb, revision)
    await in_thread(data_directory.mark_building, local.node, "rebuild")
    await local.look_at_data()
    await local.write_passfile()

    def progress(fraction: float) -> None:
        local.memory.progress(fraction)
        local.publish("rebuild_progress")

    copied = await _by_differences(local, op, progress) if op.only_differences else None
    if copied is None:
        await rebuild(local.node, op, progress)
    await check_backup_wal(local.node, op.source)
    await in_thread(data_directory.unmark_building, local.node)
    local.memory.log_faults.clear()
    local.memory.upstream_faults.clear()
    local.memory.redo_failure = None
    await local.look_at_data()
    changes = {
        "rebuilt_revision": revision,
        "fenced": False,
        "planned_stop": None,
        "promoted_lsn": None,
        "last_observed_flush_lsn": None,
        "last_observed_timeline": None,
        "schema_applied": True,
    }
    how = "" if copied is None else f": {copied.sentence}"
    return Outcome(f"rebuilt from {op.source}{how}", changes)


async def _by_differences(local: LocalNode, op: Rebuild, progress: Callable[[float], None]) -> Copied | None:
    """What it took; None when it could not be done so, and everything is to be copied."""
    label = f"rebuild_{local.node.name}_{op.nonce}"
    try:
        peer = local.peer(op.source)
        return await copy_differences(local.node, peer, label, fast=op.fast_checkpoint, progress=progress)
    except (ActionFailed, WireError, OSError, Unfit) as error:
        _log.warning("agent.differences_not_enough", error=str(error))
        return None


async def _test_disk(local: LocalNode, megabytes: int, seed: int) -> None:
    """Raises ActionFailed(FAILED): a disk that does not keep what it is given gets no copy."""
    directories = await in_thread(volumes, local.node)
    try:
        tested = await asyncio.wait_for(in_thread(self_test, directories, megabytes, seed), _SELF_TEST_S)
    except (SelfTestFailed, OSError, TimeoutError) as error:
        sentence = f"the self-test of its disk failed, and nothing is copied to it: {error}"
        Findings(local.memory, local.publish).add(
            FaultKind.STORAGE_ERROR, sentence, what="self-test", value=repr(error)
        )
        raise ActionFailed(Reason.FAILED, sentence) from error
    _log.info("agent.self_test", directories=len(directories), bytes=tested)


async def resume_replay(local: LocalNode) -> None:
    """Lift a pause of replay that somebody left behind."""
    async with local.connection() as connection:
        if await connection.fetchval("SELECT pg_is_in_recovery() AND pg_is_wal_replay_paused()"):
            await connection.execute("SELECT pg_wal_replay_resume()")
    local.memory.replay_paused_by_probe = False
