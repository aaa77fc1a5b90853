"""Errors of failover: what happened, to what, and what to do."""

from __future__ import annotations


class FailoverError(Exception):
    """The root of this package's errors."""


class StoreError(FailoverError):
    """The coordination store cannot be read or written: names the file and the reason."""


class StateConflict(StoreError):
    """Another controller has written a newer state: this one is no longer the leader and must stop deciding."""


class LeaseHeld(StoreError):
    """Another controller holds the leader lease; wait for its end, it is released at its death."""


class CommandUnanswered(FailoverError):
    """The core did not reply to an operator's command by the deadline; whether it was accepted is not known."""


class ControllerError(FailoverError):
    """The controller refused a request: `status` is HTTP's, the sentence says why and what to do."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
