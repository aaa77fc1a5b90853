"""The ready file and `locum.json`: how others find what `locum up` runs (DESIGN section 7)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from compose.credentials import superuser_dsn
from compose.layout import NODES, Layout, Ports
from replication.proc import ProcessId
from replication.wire.secrets import write_private


class ReadyNode(msgspec.Struct, frozen=True):
    """One node as an outsider reaches it. The DSN is the superuser's, of the booking database."""

    agent: str
    data_dir: str
    port: int
    dsn: str
    faultfs: str | None = None


class ReadyPids(msgspec.Struct, frozen=True):
    server: int | None
    controller: int | None
    agents: dict[str, int | None]


class Ready(msgspec.Struct, frozen=True):
    """What the ready file and locum.json hold."""

    server: str
    controller: str
    token_file: str
    nodes: dict[str, ReadyNode]
    pids: ReadyPids
    proxies: str | msgspec.UnsetType = msgspec.UNSET
    """The control socket of the links; only with --proxied."""


def describe(layout: Layout, ports: Ports, running: dict[str, ProcessId], *, faultfs: bool = False) -> Ready:
    """The cluster as it runs now. Raises SecretError."""
    pids = {name: process.pid for name, process in running.items()}
    nodes = {
        node: ReadyNode(
            agent=ports.url(ports.agent(node)),
            data_dir=str(layout.pgdata(node)),
            port=ports.postgres(node),
            dsn=superuser_dsn(layout, ports, node),
            faultfs=str(layout.faultfs_socket(node)) if faultfs else None,
        )
        for node in NODES
    }
    return Ready(
        server=ports.url(ports.server),
        controller=ports.url(ports.controller),
        token_file=str(layout.token_file),
        nodes=nodes,
        pids=ReadyPids(pids.get("server"), pids.get("controller"), {node: pids.get(f"agent-{node}") for node in NODES}),
        proxies=str(layout.links_socket) if ports.proxied else msgspec.UNSET,
    )


def write(path: Path, ready: Ready) -> None:
    """Write it whole or not at all, mode 0600."""
    write_private(path, msgspec.json.format(msgspec.json.encode(ready), indent=2).decode() + "\n")


def read(path: Path) -> Ready:
    """Read it. Raises OSError when it is not there, msgspec.DecodeError when it is something else."""
    return msgspec.json.decode(path.read_bytes(), type=Ready)
