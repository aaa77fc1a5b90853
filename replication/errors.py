"""Errors of the node side: an installation, a process, or an action that did not work."""

from __future__ import annotations

import asyncpg

from replication.model import Reason

SQL_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""How a connection or a statement fails. The last one comes when the server's farewell arrived before its end did."""


class ReplicationError(Exception):
    """Base of everything that goes wrong with one PostgreSQL node."""


class InstallationError(ReplicationError):
    """No usable PostgreSQL: names what was looked at, what is missing and what to install or pass."""


class StateError(ReplicationError):
    """The agent's own state directory cannot be read or written."""


class ForeignData(ReplicationError):
    """The data directory was made by something else, in a way that this agent must not work with."""


class StaleRevision(ReplicationError):
    """A settings file was about to be written for an action that a later one has overtaken: nothing was written."""


class FenceIncomplete(ReplicationError):
    """Some processes of the node were still there at the deadline, although killed (stuck in the kernel, as a rule)."""


class WalUnavailable(ReplicationError):
    """WAL bytes that were asked for are not there: the segment is missing, or the range ends beyond what is flushed."""


class ActionFailed(ReplicationError):
    """An accepted action ended without its effect. `reason` is for the core, `sentence` for a person."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence
