"""The SQLite store: durable, compare-and-set, one leader, and a journal that replays."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from failover.core.decide import decide
from failover.core.model import Decision, IncidentEvent, Observation, Policy, State, initial_state
from failover.errors import LeaseHeld, StateConflict, StoreError
from failover.store.base import JournalEntry
from failover.store.sqlite import SqliteStore
from tests.sim.world import World


def entry(revision: int, *events: IncidentEvent) -> JournalEntry:
    observation = Observation(now_ms=revision, at="", nodes={})
    return JournalEntry(revision, observation, Decision(kind="steady", sentence="", incident_events=events))


async def test_a_saved_state_is_there_after_a_reopen(tmp_path: Path) -> None:
    path = tmp_path / "locum.sqlite"
    store = await SqliteStore.open(path)
    assert await store.load() is None
    state = State(revision=1, term=3, primary="a")
    await store.save(state, 0, entry(1))
    await store.close()
    again = await SqliteStore.open(path)
    assert await again.load() == state
    assert path.stat().st_mode & 0o777 == 0o600
    await again.close()


async def test_a_stale_writer_changes_nothing(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "locum.sqlite")
    await store.save(State(revision=1, term=1), 0, entry(1))
    for state, expected in ((State(revision=1, term=9), 0), (State(revision=5, term=9), 4), (State(revision=1), 1)):
        with pytest.raises(StateConflict):
            await store.save(state, expected, entry(state.revision))
    assert await store.load() == State(revision=1, term=1)
    assert len(await store.journal()) == 1
    await store.close()


async def test_the_lease_has_one_holder_and_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "locum.sqlite"
    hold = (
        "import asyncio, pathlib, sys\n"
        "from failover.store.sqlite import SqliteStore\n"
        "async def main():\n"
        "    store = await SqliteStore.open(pathlib.Path(sys.argv[1]))\n"
        "    print('held', flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    root = Path(__file__).parents[3]
    with subprocess.Popen([sys.executable, "-c", hold, str(path)], stdout=subprocess.PIPE, cwd=root) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LeaseHeld):
            await SqliteStore.open(path)
        holder.kill()
        holder.wait(10)
    store = await SqliteStore.open(path)
    await store.close()


async def test_a_directory_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="look at its disk"):
        await SqliteStore.open(tmp_path / "missing" / "locum.sqlite")


async def test_commits_are_forced_to_the_disk(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "locum.sqlite")
    connection = store._open_connection
    assert isinstance(connection, sqlite3.Connection)
    levels = await store._run(lambda: connection.execute("PRAGMA synchronous").fetchone())
    assert levels == (2,)
    await store.close()


async def test_lines_of_incidents_are_saved_with_the_state_or_alone(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "locum.sqlite")
    event = IncidentEvent(incident="i1", at="", now_ms=1, event="opened", sentence="PostgreSQL of node a is dead.")
    later = IncidentEvent(incident="i2", at="", now_ms=2, event="opened", sentence="Another one.")
    await store.save(State(revision=1), 0, entry(1, event), (event,))
    assert await store.incident_events("i1") == [event]
    assert await store.incident_events("i2") == []
    await store.append((later,))
    assert await store.incident_events() == [event, later]
    with pytest.raises(StateConflict):
        await store.save(State(revision=2), 0, entry(2), (event,))
    assert await store.incident_events() == [event, later]
    await store.close()


async def test_a_journal_replays_to_the_same_states(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "locum.sqlite")
    world, policy = World(3), Policy()
    state = world.store
    for step in range(400):
        if step == 250:
            world.nodes["a"].die()
        world.step()
        observation = world.observe()
        after, decision = decide(state, observation, policy)
        if after is not state:
            await store.save(after, state.revision, JournalEntry(after.revision, observation, decision))
            state = after
    replayed = initial_state(("a", "b"))
    for kept in await store.journal():
        replayed, decision = decide(replayed, kept.observation, policy)
        assert (replayed.revision, decision) == (kept.revision, kept.decision)
    assert replayed == await store.load() == state
    await store.close()
