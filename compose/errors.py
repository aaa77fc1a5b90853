"""Errors of `locum` on the command line: each says what happened, to what, and what to do."""

from __future__ import annotations


class ComposeError(Exception):
    """What a command was asked cannot be done; the sentence is shown to the person, and the exit code is 1."""


class UpRefused(ComposeError):
    """`locum up` found something that it will not start with: nothing was made, and nothing was changed."""


class ChildFailed(ComposeError):
    """A process of `locum up` died again and again before bookings worked."""


class NoCluster(ComposeError):
    """No cluster was found where the command looked for one."""


class BadSettings(ComposeError):
    """A settings file given by --config cannot be used: names the file, the key and the reason."""
