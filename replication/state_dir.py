"""What an agent remembers across its own restarts, in `agent.json` of its state directory, off the node's disk."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec

from replication.errors import StaleRevision, StateError
from replication.model import (
    ActionResult,
    Certificate,
    Growth,
    PlacesRead,
    PlannedStop,
    Reason,
    ReceiptsFound,
    Role,
    Stage,
    WalComparison,
)
from replication.threads import in_thread
from replication.wire.secrets import write_private

RESULTS_MAX = 16


class Accepted(msgspec.Struct, frozen=True):
    """An action that was accepted and has not ended."""

    revision: int
    op: str


class AgentState(msgspec.Struct, frozen=True, kw_only=True):
    """Every field is a fact of the last moment it was written; LSNs are integers."""

    term: int = 0
    revision: int = 0
    accepted: Accepted | None = None
    results: tuple[ActionResult, ...] = ()

    incarnation: str | None = None
    """pid and start time of the last postmaster."""
    running: bool = False
    """It was started and has not been seen to end."""
    exit_sentence: str | None = None
    configured_role: Role | None = None
    configured_name: str | None = None
    upstream: str | None = None
    slot: str | None = None
    stop_before_lsn: int | None = None
    names: tuple[str, ...] = ()
    names_revision: int = 0
    stage: Stage | None = None
    fenced: bool = False
    fence_held: bool = False

    growth: Growth | None = None
    comparison: WalComparison | None = None
    receipts_found: ReceiptsFound | None = None
    certificate: Certificate | None = None
    places_read: PlacesRead | None = None
    rebuilt_revision: int = 0
    schema_applied: bool = False
    promoted_lsn: int | None = None
    planned_stop: PlannedStop | None = None
    last_observed_flush_lsn: int | None = None
    last_observed_timeline: int | None = None


class StateDir:
    """The state in memory and on disk. `state` is what was last written, or is being written."""

    def __init__(self, directory: Path, state: AgentState) -> None:
        self.state = state
        self._path = directory / "agent.json"
        self._write_lock = threading.Lock()
        self._turn = asyncio.Lock()
        self._highest_revision = state.revision

    def change(self, **changes: Any) -> Coroutine[Any, Any, AgentState]:
        """Replace fields: in memory when this returns, on disk (fsynced) when what it returns was awaited.

        Awaited, it raises StateError.
        """
        self.state = msgspec.structs.replace(self.state, **changes)
        self._highest_revision = max(self._highest_revision, self.state.revision)
        return self._written()

    async def _written(self) -> AgentState:
        async with self._turn:
            await in_thread(self._write, self.state)
        return self.state

    async def end_action(self, result: ActionResult, **changes: Any) -> AgentState:
        """Note an action's end, together with what it changed."""
        results = (*self.state.results, result)[-RESULTS_MAX:]
        accepted = self.state.accepted
        if accepted is not None and accepted.revision == result.revision:
            accepted = None
        return await self.change(results=results, accepted=accepted, **changes)

    def write_settings(self, path: Path, text: str, revision: int, *, durable: bool = True) -> None:
        """Write a settings file whole, unless it says so already, or a later action was accepted meanwhile.

        The revision is compared under the lock, just before the rename: a "relax" that hung on a stalled disk must not
        land on top of the "grow" that followed it (DESIGN section 4). Blocks. Raises StaleRevision, OSError.
        """
        with self._write_lock:
            if path.exists() and path.read_text(encoding="utf-8") == text:
                return
            fresh = path.with_name(f"{path.name}.new")
            if durable:
                write_private(fresh, text)
            else:
                fresh.touch(mode=0o600)
                fresh.write_text(text, encoding="utf-8")
            if revision < self._highest_revision:
                raise StaleRevision(
                    f"{path.name} for revision {revision} was not written: revision {self._highest_revision} came first"
                )
            fresh.replace(path)

    def overtake(self, revision: int) -> None:
        """From now on no settings file of an earlier revision is written (a fence does not wait for its own write)."""
        self._highest_revision = max(self._highest_revision, revision)

    def _write(self, state: AgentState) -> None:
        try:
            write_private(self._path, msgspec.json.format(msgspec.json.encode(state)).decode() + "\n")
        except OSError as error:
            raise StateError(f"cannot write the agent's state {self._path}: {error.strerror}") from error


def open_state(directory: Path, *, clock_ms: int) -> StateDir:
    """Read the state, or begin with an empty one. An action that was under way is noted as interrupted.

    Blocks. Raises StateError when the file cannot be read or is not an agent's state.
    """
    path = directory / "agent.json"
    try:
        state = msgspec.json.decode(path.read_bytes(), type=AgentState)
    except FileNotFoundError:
        state = AgentState()
    except (OSError, msgspec.DecodeError) as error:
        raise StateError(f"cannot read the agent's state {path}: {error}; it is never thrown away silently") from error
    if state.accepted is not None:
        result = ActionResult(
            revision=state.accepted.revision,
            op=state.accepted.op,
            ok=False,
            sentence="the agent was restarted while it ran",
            reason=Reason.INTERRUPTED,
            ended_clock_ms=clock_ms,
        )
        results = (*state.results, result)[-RESULTS_MAX:]
        state = msgspec.structs.replace(state, accepted=None, results=results)
    return StateDir(directory, state)
