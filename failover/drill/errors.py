"""What can go wrong with a drill itself. None of these is a verdict on the cluster: the outcome is then *unknown*."""

from __future__ import annotations


class DrillError(Exception):
    """Base of all: what happened, to what, and what to do."""


class ScenarioRefused(DrillError):
    """A scenario file that makes no sense."""


class ClusterAway(DrillError):
    """The cluster of the drill did not start, or does not answer any more."""


class Unreadable(ClusterAway):
    """PostgreSQL answers, and cannot read the bookings: that is a finding."""


class NotATarget(DrillError):
    """That deployment must not be drilled, or cannot be from here."""


class NotInjected(DrillError):
    """The fault could not be made, or it never struck: nothing was shown."""


class Skipped(DrillError):
    """This machine cannot make the fault; the sentence says what it lacks."""
