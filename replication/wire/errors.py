"""Errors of the wire."""

from __future__ import annotations


class WireError(Exception):
    """A peer could not be reached, or what it said ended early.

    `silence` is `refused` (nobody listens), `timeout` (no answer within the deadline) or `error` (anything else).
    """

    def __init__(self, sentence: str, silence: str) -> None:
        super().__init__(sentence)
        self.silence = silence


class BadBody(Exception):
    """A request's body is not the JSON that the route takes; answered with 400 and the sentence."""


class PortOccupied(Exception):
    """The address to listen on is taken: names it and says what to do."""


class SecretError(Exception):
    """A secret's file is missing, empty, or readable by others."""
