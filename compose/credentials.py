"""The secrets of one data directory: made at the first start, kept ever after."""

from __future__ import annotations

import secrets
from urllib.parse import quote

from compose.layout import HOST, Layout, Ports
from replication.wire.secrets import read_secret, write_private

NAMES = ("token", "superuser", "replication", "server", "seal")
_BYTES = 32


def ensure_secrets(layout: Layout) -> None:
    """Make each missing secret (256 random bits, URL-safe, mode 0600). Raises SecretError on an unusable one."""
    for name in NAMES:
        path = layout.secrets / name
        if path.exists():
            read_secret(path)
        else:
            write_private(path, secrets.token_urlsafe(_BYTES) + "\n")


def superuser_dsn(layout: Layout, ports: Ports, node: str) -> str:
    """How a tool on this machine reaches the booking database of a node as superuser. Raises SecretError."""
    password = quote(read_secret(layout.secrets / "superuser"), safe="")
    return f"postgresql://postgres:{password}@{HOST}:{ports.postgres(node)}/locum"
