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
