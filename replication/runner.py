"""Runs accepted actions, one at a time; a fence ends what runs and never waits for a write."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from replication import actions
from replication.acceptance import Refused, Situation, is_final, refusal
from replication.actions import Action, Op, op_name
from replication.check_receipts import check_receipts
from replication.drop_maps import drop_maps
from replication.ending import fence_node, stop, unfence
from replication.errors import SQL_ERRORS, ActionFailed, ReplicationError, StateError
from replication.intent import intent
from replication.local_node import LocalNode, Outcome
from replication.memory import clock_ms
from replication.model import ActionResult, Doing, Reason
from replication.primary_ops import checkpoint, ensure_slot, grow, set_names, set_stage
from replication.read_places import read_places
from replication.reindex import reindex
from replication.schema import apply_schema
from replication.settings import SettingsError
from replication.standby_ops import certify_standby, promote_standby
from replication.starting import compare_with_peer, init_db, rebuild_node, start_primary, start_standby
from replication.state_dir import Accepted
from replication.wire.errors import SecretError, WireError

_log = structlog.get_logger()

_EXPECTED: tuple[type[Exception], ...] = (ReplicationError, SettingsError, SecretError, WireError, *SQL_ERRORS)
_PREEMPTED_WAIT_S = 1.0

_PERFORMERS: dict[type[Any], Callable[[LocalNode, Any, int], Awaitable[Outcome]]] = {
    actions.InitDb: init_db,
    actions.StartPrimary: start_primary,
    actions.ApplySchema: apply_schema,
    actions.SetStage: set_stage,
    actions.SetNames: set_names,
    actions.Grow: grow,
    actions.EnsureSlot: ensure_slot,
    actions.StartStandby: start_standby,
    actions.CompareWal: compare_with_peer,
    actions.Promote: promote_standby,
    actions.Checkpoint: checkpoint,
    actions.Stop: stop,
    actions.Fence: fence_node,
    actions.Unfence: unfence,
    actions.Rebuild: rebuild_node,
    actions.Certify: certify_standby,
    actions.ReadPlaces: read_places,
    actions.CheckReceipts: check_receipts,
    actions.Reindex: reindex,
    actions.DropMaps: drop_maps,
}


class Runner:
    """`tasks` is the agent's task group: nothing that runs here outlives it."""

    def __init__(self, local: LocalNode, tasks: asyncio.TaskGroup) -> None:
        self._local = local
        self._tasks = tasks
        self._task: asyncio.Task[None] | None = None
        self._refused_revision = 0

    async def accept(self, action: Action) -> Refused | None:
        """Accept or refuse. Accepted: its revision and intention are on disk when this returns, and it runs (a fence and
        a promotion run already). Raises StateError when the state cannot be written: then nothing runs but a fence."""
        local = self._local
        refused = refusal(action, local.state, self._situation())
        if refused is not None:
            _log.info("agent.action_refused", op=op_name(action.op), refused=refused.refused, why=refused.sentence)
            if is_final(refused):
                self._refused_revision = max(self._refused_revision, action.revision)
            return refused
        earlier = self._task if self._task is not None and not self._task.done() else None
        interrupted = local.state.accepted
        persisted = asyncio.ensure_future(
            local.store.change(
                term=action.term,
                revision=action.revision,
                accepted=Accepted(action.revision, op_name(action.op)),
                **intent(action.op, local.state, action.revision),
            )
        )
        self._begin(action)
        if isinstance(action.op, actions.Fence):
            if earlier is not None:
                earlier.cancel()
            self._task = self._tasks.create_task(self._run_fence(action, earlier, interrupted))
            await asyncio.shield(persisted)
            return None
        local.recorded = persisted
        if isinstance(action.op, actions.Promote):
            # It waits by itself before its point of no return: what comes before that need not wait for the disk.
            self._task = self._tasks.create_task(self._run(action))
            await asyncio.shield(persisted)
            return None
        try:
            await asyncio.shield(persisted)
        except ReplicationError:
            local.memory.doing = None
            raise
        if local.state.revision == action.revision:  # else a fence came while it was persisted
            self._task = self._tasks.create_task(self._run(action))
        return None

    def close(self) -> None:
        """Cancel what runs; the next agent reports it as interrupted."""
        if self._task is not None:
            self._task.cancel()

    async def cancel(self) -> None:
        """End what runs, at the agent's own end."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_PREEMPTED_WAIT_S)

    def _situation(self) -> Situation:
        local = self._local
        settings = local.node.settings
        return Situation(
            node=settings.name,
            boot_id=local.memory.boot_id,
            clock_ms=clock_ms(),
            action_ttl_ms=settings.action_ttl_ms,
            running=local.supervisor.running,
            incarnation=local.supervisor.incarnation,
            data=local.memory.data,
            doing=local.memory.doing.op if local.memory.doing is not None else None,
            refused_revision=self._refused_revision,
        )

    def _begin(self, action: Action) -> None:
        memory = self._local.memory
        memory.doing = Doing(action.revision, op_name(action.op), 0)
        memory.doing_since_ms = clock_ms()
        _log.info("agent.action_accepted", op=op_name(action.op), revision=action.revision, term=action.term)
        self._local.publish("action_accepted")

    async def _run(self, action: Action) -> None:
        result, outcome = await self._perform(action.op, action.revision)
        await self._end(result, outcome)

    async def _run_fence(
        self, action: Action, earlier: asyncio.Task[None] | None, interrupted: Accepted | None
    ) -> None:
        result, outcome = await self._perform(action.op, action.revision)
        if earlier is not None:
            await asyncio.wait({earlier}, timeout=_PREEMPTED_WAIT_S)
            if self._local.supervisor.running:  # it was just starting one
                result, outcome = await self._perform(action.op, action.revision)
        if interrupted is not None:
            sentence = "ended by a fence"
            failed = ActionResult(interrupted.revision, interrupted.op, False, sentence, Reason.INTERRUPTED, clock_ms())
            with contextlib.suppress(StateError):
                await self._local.store.end_action(failed)
        await self._end(result, outcome)

    async def _perform(self, op: Op, revision: int) -> tuple[ActionResult, Outcome]:
        name = op_name(op)
        try:
            outcome = await _PERFORMERS[type(op)](self._local, op, revision)
        except ActionFailed as error:
            return ActionResult(revision, name, False, error.sentence, error.reason, clock_ms()), Outcome("")
        except _EXPECTED as error:
            sentence = str(error) or type(error).__name__
            return ActionResult(revision, name, False, sentence, Reason.FAILED, clock_ms()), Outcome("")
        return ActionResult(revision, name, True, outcome.sentence, None, clock_ms()), outcome

    async def _end(self, result: ActionResult, outcome: Outcome) -> None:
        local = self._local
        _log.log(
            20 if result.ok else 30,
            "agent.action_ended",
            op=result.op,
            revision=result.revision,
            ok=result.ok,
            reason=result.reason,
            sentence=result.sentence,
            took_ms=clock_ms() - local.memory.doing_since_ms,
        )
        try:
            await local.store.end_action(result, **outcome.changes)
        except StateError as error:
            _log.error("agent.state_unwritable", sentence=str(error))
        if local.memory.doing is not None and local.memory.doing.revision == result.revision:
            local.memory.doing = None
        local.publish("action_ended")
