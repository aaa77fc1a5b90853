"""The topology record: all that a server knows of the cluster, pushed as server-sent events.

`GET /v1/topology` of the controller sends `event: topology` with this record as JSON at once and after every change.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Phase(StrEnum):
    STARTING = "starting"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    FAILING_OVER = "failing_over"
    SWITCHING_OVER = "switching_over"
    NO_PRIMARY = "no_primary"


class PrimaryEndpoint(msgspec.Struct, frozen=True):
    """Where writes go. The DSN names no password: the server reads its own from a file."""

    name: str
    dsn: str


class StandbyEndpoint(msgspec.Struct, frozen=True):
    """A standby; `timeline` is set only when its history was proved in this term: only then may it answer reads."""

    name: str
    dsn: str
    eligible: bool
    timeline: int | None
    certified_lsn: str | None


class Topology(msgspec.Struct, frozen=True):
    """Who is primary in which term. Terms never fall; within a term the newest record counts.

    `primary` is None while none is open: requests are held. In phase `switching_over` new writes are held and those in
    flight are counted in the server's report.
    """

    term: int
    primary: PrimaryEndpoint | None
    standbys: tuple[StandbyEndpoint, ...]
    phase: Phase


def encode(topology: Topology) -> bytes:
    """The record as one line of JSON."""
    return msgspec.json.encode(topology)


def decode(data: bytes | str) -> Topology:
    """The record from JSON. Raises msgspec.ValidationError on anything else."""
    return msgspec.json.decode(data, type=Topology)
