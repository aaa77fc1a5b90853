"""What a coordination store must do: a few verbs, the same for one machine (SQLite) and for several (etcd, later).

A state is replaced as a whole, by compare-and-set on its revision, and is durable before `save` returns: the controller
acts only afterwards.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from failover.core.model import Decision, IncidentEvent, Observation, State

JOURNAL_ENTRIES_MAX = 2_000


class JournalEntry(msgspec.Struct, frozen=True):
    """One input of the core and what it made of it: `decide(state before, observation)` gives this again."""

    revision: int
    observation: Observation
    decision: Decision


class Store(Protocol):
    """The verbs. Every one has a deadline of its own and raises StoreError when the medium fails."""

    async def load(self) -> State | None:
        """The newest state; None when nothing was ever saved."""

    async def save(
        self, state: State, expected_revision: int, entry: JournalEntry, lines: tuple[IncidentEvent, ...] = ()
    ) -> None:
        """Replace the state of `expected_revision`, append the entry and these lines of incidents, in one durable step.

        Raises StateConflict when the stored revision is another one; nothing is written then.
        """

    async def append(self, lines: tuple[IncidentEvent, ...]) -> None:
        """Add lines to incidents that no decision wrote, such as the end of an outage."""

    async def journal(self, after_revision: int = 0) -> list[JournalEntry]:
        """The kept entries above a revision, oldest first; at most the newest 2,000 are kept."""

    async def incident_events(self, incident: str | None = None) -> list[IncidentEvent]:
        """The lines of one incident, or of all, oldest first."""

    async def close(self) -> None:
        """Release the leader lease and the medium."""
