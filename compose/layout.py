"""Where `locum up` keeps things: the files of one data directory and the ports of one base port (docs/PROTOCOL.md)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from compose.links import Link, links_between

NODES = ("a", "b")
"""The nodes of `locum up`. The write barrier is complete for two only (DESIGN section 4)."""

WORKERS_MAX = 8
"""Processes that serve the one port."""
HOST = "127.0.0.1"
DEFAULT_DATA = Path("locum-data")
DEFAULT_PORT = 8080


def worker_names(count: int) -> list[str]:
    """`server`, `server-2`, `server-3` …"""
    return ["server", *(f"server-{number}" for number in range(2, count + 1))]


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
    def auth_key(self) -> Path:
        """With --auth: the private key of the development issuer (JWK)."""
        return self.secrets / "auth-key"

    @property
    def jwks(self) -> Path:
        """With --auth: its public keys, as the server reads them."""
        return self.secrets / "jwks.json"

    @property
    def store(self) -> Path:
        """The coordination store's directory, off every node's disk."""
        return self.root / "store"

    @property
    def server(self) -> Path:
        """The server's own files."""
        return self.root / "server"

    def server_state(self, worker: str) -> Path:
        """The own files of one worker, `server` or `server-2` and so on."""
        return self.root / worker

    @property
    def logs(self) -> Path:
        """One log a process."""
        return self.root / "log"

    @property
    def config(self) -> Path:
        """The settings file of each process, written by `up` at every start."""
        return self.root / "config"

    @property
    def links_socket(self) -> Path:
        """How the links of `--proxied` are cut (compose/proxies.py)."""
        return self.root / "links.sock"

    def agent_state(self, node: str) -> Path:
        """An agent's own state, off the node's disk."""
        return self.root / "agents" / node

    def disk(self, node: str) -> Path:
        """A node's disk: the parent of its data directory."""
        return self.root / "nodes" / node

    def pgdata(self, node: str) -> Path:
        """PostgreSQL's data directory, made by initdb or a base backup, never by `up`."""
        return self.disk(node) / "pgdata"

    def backing(self, node: str) -> Path:
        """With --faultfs: where a node's files lie; `pgdata` is then where the faulty disk is mounted."""
        return self.disk(node) / "backing"

    def faultfs_socket(self, node: str) -> Path:
        """How a node's faulty disk is steered (failover/drill/faultfs/control.py)."""
        return self.disk(node) / "faultfs.sock"

    def faultfs_log(self, node: str) -> Path:
        """One JSON line for each fault that struck."""
        return self.logs / f"faults-{node}.jsonl"

    def settings(self, process: str) -> Path:
        """The settings file of a process: `agent-a`, `controller`, `server`, `proxies`, `faultfs-a`."""
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
    """The ports of one base port: +0 server, +1 controller, +11.. agents, +21.. Postgres, with `proxied` +31.. links."""

    base: int
    proxied: bool = False

    @property
    def server(self) -> int:
        return self.base

    @property
    def controller(self) -> int:
        return self.base + 1

    @property
    def highest(self) -> int:
        """The last one that is used."""
        return max(self.named())

    def agent(self, node: str) -> int:
        """The port of a node's agent."""
        return self.base + 11 + NODES.index(node)

    def postgres(self, node: str) -> int:
        """The port of a node's PostgreSQL."""
        return self.base + 21 + NODES.index(node)

    def link(self, link: Link) -> int:
        """The port at which a link's proxy listens."""
        return self.base + 31 + links_between(NODES).index(link)

    def listening(self) -> dict[str, int]:
        """The port at which each part listens, by its name as an end of a link: `agent-a`, `postgres-a`, `server`."""
        agents = {f"agent-{node}": self.agent(node) for node in NODES}
        nodes = {f"postgres-{node}": self.postgres(node) for node in NODES}
        return {"server": self.server, "controller": self.controller, **agents, **nodes}

    def towards(self, source: str, target: str) -> int:
        """The port at which `source` reaches `target`: that of its link when there is one, else the target's own."""
        return self.link(Link(source, target)) if self.proxied else self.listening()[target]

    def named(self) -> dict[int, str]:
        """Every port with what listens there."""
        owners = {self.server: "the server", self.controller: "the controller"}
        for node in NODES:
            owners[self.agent(node)] = f"the agent of node {node}"
            owners[self.postgres(node)] = f"PostgreSQL of node {node}"
        if self.proxied:
            owners |= {self.link(link): f"the link {link.name}" for link in links_between(NODES)}
        return owners

    def url(self, port: int) -> str:
        """A loopback URL."""
        return f"http://{HOST}:{port}"
