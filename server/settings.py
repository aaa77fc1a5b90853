"""Settings of the server: a TOML file. Raises SettingsError with the file and the reason."""

from __future__ import annotations

from pathlib import Path

import msgspec

from replication.wire import toml
from server.tokens import AuthSettings

_PRACTITIONERS_MAX = 80


class SettingsError(Exception):
    """A settings file cannot be used: names the file, the key and what to write there."""


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One server's own facts and limits; times in milliseconds. `demo_practitioners` 0: no demo clinic."""

    controller_url: str
    token_file: Path
    password_file: Path
    seal_key_file: Path
    state_dir: Path
    name: str = "server"
    siblings: list[Path] = []
    """Directories of the receipts of the other workers that serve the same port of this host."""
    adopted: list[Path] = []
    """Those of workers that run no more: their receipts become this one's at its start."""
    reuse_port: bool = False
    """Other workers listen at the same port too, and the kernel chooses one for each connection."""
    listen_host: str = "127.0.0.1"
    listen_port: int = 8080
    cors_origins: list[str] = []
    request_deadline_ms: int = 20_000
    lease_ttl_ms: int = 3_000
    body_bytes_max: int = 256 * 1024
    connections_max: int = 16
    rate_per_s: float = 0.0
    """Requests a second by each caller (by address without tokens); 0: no limit."""
    rate_burst: int = 100
    demo_practitioners: int = 0
    clinic_file: Path | None = None
    """Who may be booked where and when (server/clinic.py), instead of the demo clinic."""
    auth: AuthSettings | None = None
    """Whose bearer tokens are needed under /fhir; None: everybody who can connect may do everything."""


def load(path: Path) -> ServerSettings:
    """Read and check a settings file. Raises SettingsError."""
    try:
        found = toml.decode(path.read_bytes(), ServerSettings)
    except OSError as error:
        raise SettingsError(f"cannot read the server's settings {path}: {error.strerror}") from error
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise SettingsError(f"{path} is not a valid server settings file: {error}; see docs/PROTOCOL.md") from error
    if not 0 <= found.demo_practitioners <= _PRACTITIONERS_MAX:
        raise SettingsError(f"{path}: demo_practitioners must lie in 0 to {_PRACTITIONERS_MAX}")
    if found.rate_per_s < 0 or found.rate_burst < 1:
        raise SettingsError(f"{path}: rate_per_s must not be negative, and rate_burst at least 1")
    if found.request_deadline_ms <= 0 or found.connections_max <= 0 or found.body_bytes_max <= 0:
        raise SettingsError(f"{path}: request_deadline_ms, connections_max and body_bytes_max must be above zero")
    return found
