"""The fixed facts of the local node, and the one way to its PostgreSQL: the unix socket, as superuser."""

from __future__ import annotations

import os
import stat
import tempfile
from functools import cache
from pathlib import Path

import asyncpg
import msgspec

from replication.connection import AgentConnection
from replication.errors import StateError
from replication.installation import Installation
from replication.settings import AgentSettings
from replication.wire.secrets import read_secret

SUPERUSER = "postgres"
DATABASE = "locum"
ROLE_REPLICATION = "locum_replication"
ROLE_SERVER = "locum_server"

_CONNECT_DEADLINE_S = 5.0
_UNIX_PATH_BYTES_MAX = 107


class Node(msgspec.Struct, frozen=True):
    """Given to everything that works on the local node. `socket_dir` is private (0700) and short enough for a path."""

    settings: AgentSettings
    installation: Installation
    socket_dir: Path

    @property
    def name(self) -> str:
        """The node's own name."""
        return self.settings.name

    @property
    def data_dir(self) -> Path:
        """PostgreSQL's data directory."""
        return self.settings.data_dir

    @property
    def conf_dir(self) -> Path:
        """Off the node's disk: postgresql.conf, pg_hba.conf, pg_ident.conf and the passfile, all made by the agent."""
        return self.settings.state_dir / "postgres"

    @property
    def log_dir(self) -> Path:
        """Off the node's disk: PostgreSQL's own log, as JSON lines."""
        return self.settings.state_dir / "log"

    @property
    def passfile(self) -> Path:
        """The passwords of libpq clients (walreceiver, pg_basebackup), mode 0600."""
        return self.conf_dir / "passfile"

    def secret(self, name: str) -> str:
        """One of `superuser`, `replication`, `server`, `token`. Raises SecretError."""
        return _read_once(self.settings.secrets_dir / name)

    async def connect(
        self,
        *,
        database: str = "postgres",
        application_name: str = "locum_agent",
        deadline_s: float = _CONNECT_DEADLINE_S,
    ) -> asyncpg.Connection:
        """A superuser connection over the unix socket. Raises OSError, TimeoutError or asyncpg.PostgresError.

        The deadline is for connecting only: statements have none of their own (asyncpg would send a cancel). Its commits
        wait for the standby whatever ALTER ROLE or ALTER DATABASE say: they are proofs.
        """
        return await asyncpg.connect(
            host=str(self.socket_dir),
            port=self.settings.postgres_port,
            user=SUPERUSER,
            password=self.secret("superuser"),
            database=database,
            timeout=deadline_s,
            server_settings={"application_name": application_name, "synchronous_commit": "on"},
            connection_class=AgentConnection,
        )


@cache
def _read_once(path: Path) -> str:
    """Every new connection needs one: the disk is asked once in a process's life."""
    return read_secret(path)


def make_node(settings: AgentSettings, installation: Installation) -> Node:
    """The node of these settings, with its directories made (0700). Blocks on the disk of the state directory.

    Raises OSError, or StateError when the socket directory belongs to somebody else.
    """
    node = Node(settings=settings, installation=installation, socket_dir=_socket_dir(settings))
    for folder in (settings.state_dir, node.conf_dir, node.log_dir, node.socket_dir):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if installation.account is not None:
        for folder in (node.conf_dir, node.log_dir, node.socket_dir):
            installation.own(folder)
    _check_private(node)
    return node


def _check_private(node: Node) -> None:
    found = node.socket_dir.lstat()
    owners = {os.geteuid()} | ({node.installation.account.uid} if node.installation.account is not None else set())
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners or found.st_mode & 0o077:
        raise StateError(f"{node.socket_dir} must be a directory of this user with mode 0700; remove it")


def _socket_dir(settings: AgentSettings) -> Path:
    wanted = settings.state_dir.resolve() / "socket"
    if len(os.fsencode(wanted / f".s.PGSQL.{settings.postgres_port}.lock")) <= _UNIX_PATH_BYTES_MAX:
        return wanted
    # A second agent of the same port cannot exist: the port itself says which directory is this node's.
    return Path(tempfile.gettempdir(), f"locum-{os.geteuid()}-{settings.postgres_port}")
