"""The agent's persisted state."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from replication.errors import StaleRevision, StateError
from replication.model import ActionResult, Reason
from replication.state_dir import RESULTS_MAX, Accepted, StateDir, open_state


def reopened(directory: Path) -> StateDir:
    return open_state(directory, clock_ms=5)


async def test_what_was_changed_is_there_again(tmp_path: Path) -> None:
    store = reopened(tmp_path)
    await store.change(term=3, revision=9, names=("b_g1",))
    again = reopened(tmp_path).state
    assert (again.term, again.revision, again.names) == (3, 9, ("b_g1",))
    assert (tmp_path / "agent.json").stat().st_mode & 0o777 == 0o600


async def test_an_action_under_way_is_reported_as_interrupted(tmp_path: Path) -> None:
    await reopened(tmp_path).change(revision=9, accepted=Accepted(9, "promote"))
    state = reopened(tmp_path).state
    assert state.accepted is None
    (result,) = state.results
    assert (result.revision, result.op, result.ok, result.reason) == (9, "promote", False, Reason.INTERRUPTED)


async def test_an_end_clears_only_its_own_action(tmp_path: Path) -> None:
    store = reopened(tmp_path)
    await store.change(accepted=Accepted(10, "fence"))
    await store.end_action(ActionResult(9, "grow", False, "ended by a fence", Reason.INTERRUPTED))
    assert store.state.accepted == Accepted(10, "fence")
    await store.end_action(ActionResult(10, "fence", True, "done"))
    assert store.state.accepted is None


async def test_only_the_last_results_are_kept(tmp_path: Path) -> None:
    store = reopened(tmp_path)
    for revision in range(RESULTS_MAX + 3):
        await store.end_action(ActionResult(revision, "set_names", True, ""))
    assert [result.revision for result in reopened(tmp_path).state.results] == list(range(3, RESULTS_MAX + 3))


async def test_concurrent_changes_are_all_there(tmp_path: Path) -> None:
    store = reopened(tmp_path)
    await asyncio.gather(store.change(term=2), store.change(slot="s"), store.change(schema_applied=True))
    state = reopened(tmp_path).state
    assert (state.term, state.slot, state.schema_applied) == (2, "s", True)


def test_a_damaged_state_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "agent.json").write_text("{")
    with pytest.raises(StateError, match=r"agent\.json"):
        reopened(tmp_path)
    assert (tmp_path / "agent.json").read_text() == "{"


async def test_a_settings_file_of_an_overtaken_action_is_not_written(tmp_path: Path) -> None:
    """A "relax" that hung must not land on top of the "grow" that followed it (DESIGN section 4)."""
    store = reopened(tmp_path)
    path = tmp_path / "postgresql.conf"
    await store.change(revision=5)
    store.write_settings(path, "names = b_g1", 5)
    store.overtake(6)
    with pytest.raises(StaleRevision, match="revision 5"):
        store.write_settings(path, "names = ''", 5)
    assert path.read_text() == "names = b_g1"


async def test_an_unwritable_state_directory_is_an_error(tmp_path: Path) -> None:
    store = reopened(tmp_path / "gone")
    with pytest.raises(StateError, match="cannot write"):
        await store.change(term=1)
