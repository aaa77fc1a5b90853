"""Where `locum up` keeps things: the files of one data directory and the ports of one base port (docs/PROTOCOL.md)."""

from __future__ import annotations

from pathlib import Path

import msgspec

NODES = ("a", "b")
"""The nodes of `locum up`. The write barrier is complete for two only (DESIGN section 4)."""

HOST = "127.0.0.1"
DEFAULT_DATA = Path("locum-data")
DEFAULT_PORT = 8080


class Layout(msgspec.Struct, frozen=True):
    """Every path of one data directory; `root` is absolute."""

    root: Path

    @property
    def locum_json(self) -> Path:
        """What the ready file holds too: how the command line finds the controller and the token."""
        return self.root / "locum.json"

    @property
    def lock(self) -> Path:
        """Held (flock) by the one `locum up` of this directory."""
        return self.root / "up.lock"

    @property
    def pids(self) -> Path:
        """Pid and start time of every child, for the `up` after one that was killed."""
        return self.root / "pids.json"

    @property
    def secrets(self) -> Path:
        """One-line files of mode 0600: token, superuser, replication, server, seal."""
        return self.root / "secrets"

    @property
    def token_file(self) -> Path:
        """The bearer token of agents and controller."""
        return self.secrets / "token"

    @property
    def store(self) -> Path:
        """The coordination store's directory, off every node's disk."""
        return self.root / "store"

    @property
    def server(self) -> Path:
        """The server's own files."""
        return self.root / "server"

    @property
    def logs(self) -> Path:
        """One log a process."""
        return self.root / "log"

    @property
    def config(self) -> Path:
        """The settings file of each process, written by `up` at every start."""
        return self.root / "config"

    def agent_state(self, node: str) -> Path:
        """An agent's own state, off the node's disk."""
        return self.root / "agents" / node

    def disk(self, node: str) -> Path:
        """A node's disk: the parent of its data directory."""
        return self.root / "nodes" / node

    def pgdata(self, node: str) -> Path:
        """PostgreSQL's data directory, made by initdb or a base backup, never by `up`."""
        return self.disk(node) / "pgdata"

    def settings(self, process: str) -> Path:
        """The settings file of a process: `agent-a`, `controller`, `server`."""
        return self.config / f"{process}.toml"

    def log(self, process: str) -> Path:
        """The log of a process."""
        return self.logs / f"{process}.log"

    def directories(self) -> list[Path]:
        """All that must exist before a process starts, parents first."""
        tops = [self.secrets, self.store, self.server, self.logs, self.config]
        nodes = [path for node in NODES for path in (self.agent_state(node), self.disk(node))]
        return [self.root, *tops, self.root / "agents", self.root / "nodes", *nodes]


class Ports(msgspec.Struct, frozen=True):
    """The ports of one base port: +0 server, +1 controller, +11.. agents, +21.. Postgres."""

    base: int

    @property
    def server(self) -> int:
        return self.base

    @property
    def controller(self) -> int:
        return self.base + 1

    def agent(self, node: str) -> int:
        """The port of a node's agent."""
        return self.base + 11 + NODES.index(node)

    def postgres(self, node: str) -> int:
        """The port of a node's PostgreSQL."""
        return self.base + 21 + NODES.index(node)

    def named(self) -> dict[int, str]:
        """Every port with what listens there."""
        owners = {self.server: "the server", self.controller: "the controller"}
        for node in NODES:
            owners[self.agent(node)] = f"the agent of node {node}"
            owners[self.postgres(node)] = f"PostgreSQL of node {node}"
        return owners

    def url(self, port: int) -> str:
        """A loopback URL."""
        return f"http://{HOST}:{port}"
