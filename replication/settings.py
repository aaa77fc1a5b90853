"""Settings of one agent: a TOML file, written by `locum up` or by a person. Raises SettingsError on a bad one."""

from __future__ import annotations

from pathlib import Path

import msgspec

from replication.wire import toml


class SettingsError(Exception):
    """A settings file cannot be used: names the file, the key and what to write there."""


class Peer(msgspec.Struct, frozen=True):
    """Another node as this agent reaches it."""

    agent_url: str
    postgres_host: str
    postgres_port: int


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One node's own facts and limits; times in milliseconds.

    `data_dir` is PostgreSQL's data directory on the node's disk; `state_dir` (the agent's own state, settings file and
    pg_hba) lies off that disk. `secrets_dir` holds one-line files `token`, `superuser`, `replication`, `server`.
    """

    name: str
    data_dir: Path
    state_dir: Path
    secrets_dir: Path
    schema_file: Path
    listen_host: str = "127.0.0.1"
    listen_port: int = 8091
    postgres_host: str = "127.0.0.1"
    postgres_port: int = 8101
    peers: dict[str, Peer] = {}
    bindir: Path | None = None
    postgres: dict[str, str] = {}
    probe_interval_ms: int = 250
    probe_deadline_ms: int = 750
    action_ttl_ms: int = 2_000
    lease_ttl_ms: int = 3_000
    heartbeat_ms: int = 250
    replay_pause_max_ms: int = 1_000
    wall_clock_offset_ms: int = 0
    scrub_enabled: bool = True
    """Look for damage without being asked (replication/scrub)."""
    scrub_mb_per_s: float = 20.0
    compare_mb_per_s: float = 3.0
    """Of pages that a standby compares with its primary's: each is read on both."""
    scrub_latency_ms_max: int = 100
    """The scrub stands still while this node's own commits take longer."""
    scrub_pause_s: float = 10.0
    """Between two passes."""
    checks_every_s: float = 5.0
    """pg_control, WAL, kernel counters."""
    relation_checks_share: float = 0.02
    """amcheck with missing files, and visibility maps: each at most this share of the time."""


def load(path: Path) -> AgentSettings:
    """Read a settings file. Raises SettingsError with the file and the reason."""
    try:
        return toml.decode(path.read_bytes(), AgentSettings)
    except OSError as error:
        raise SettingsError(f"cannot read the agent's settings {path}: {error.strerror}") from error
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise SettingsError(f"{path} is not a valid agent settings file: {error}; see docs/PROTOCOL.md") from error
