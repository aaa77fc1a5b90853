"""The links between the processes of `locum up --proxied`: which there are, and the settings of the process that hosts them.

A link is a direction: who connects to whom. Cutting it leaves the connections that the other side makes alone, so a
path between two nodes is cut by cutting every link between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import msgspec

from compose.errors import BadSettings
from replication.wire import toml

SLOW_MS = 50
"""As between continents."""


class LinkState(StrEnum):
    """What a link does with the bytes of its connections, and with new connections."""

    OPEN = "open"
    """It forwards, and refuses when its target refuses."""
    CUT = "cut"
    """Connections are reset, new ones refused: a host that answers and a process that is gone."""
    FROZEN = "frozen"
    """Nothing passes in either direction, nothing is closed, new connections get no answer: a path that drops packets."""
    FROZEN_TO = "frozen_to"
    """The same, but what the target says still comes back."""
    FROZEN_FROM = "frozen_from"
    """The same, but what the target is told still reaches it."""
    SLOW = "slow"
    """Everything arrives, SLOW_MS later."""


class Link(NamedTuple):
    """`source` connects to `target`; `node-a` is the agent of a together with its PostgreSQL."""

    source: str
    target: str

    @property
    def name(self) -> str:
        """As the control socket and the settings call it, such as `controller-agent-a`."""
        return f"{self.source}-{self.target}"


def links_between(nodes: Sequence[str]) -> list[Link]:
    """Every link of a cluster of these nodes, in the order of their ports."""
    others = [(node, peer) for node in nodes for peer in nodes if peer != node]
    return [
        *(Link("controller", f"agent-{node}") for node in nodes),
        *(Link(f"agent-{node}", f"agent-{peer}") for node, peer in others),
        *(Link(f"node-{node}", f"postgres-{peer}") for node, peer in others),
        *(Link("server", f"postgres-{node}") for node in nodes),
        Link("server", "controller"),
        Link("controller", "server"),
    ]


class LinkSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a link listens and what it forwards to, both on loopback."""

    listen_port: int
    target_port: int


class ProxiesSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings file of the proxies: the path of the control socket, and the links by name."""

    control: Path
    links: dict[str, LinkSettings]


def load(path: Path) -> ProxiesSettings:
    """Read the settings file. Raises BadSettings."""
    try:
        return toml.decode(path.read_bytes(), ProxiesSettings)
    except OSError as error:
        raise BadSettings(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise BadSettings(f"{path} is not a valid settings file: {error}") from error
