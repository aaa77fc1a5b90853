"""PostgreSQL's settings as the agent writes them: pure text for postgresql.conf, pg_hba.conf and the passfile.

All lie in the agent's state directory, never on the node's disk, and nothing goes through ALTER SYSTEM. A file is made
from role, stage, term, revision, names and upstream alone, so that two agents with the same facts write the same text.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import msgspec

from replication.model import Role, Stage, format_lsn
from replication.node import DATABASE, ROLE_REPLICATION, ROLE_SERVER, SUPERUSER, Node
from replication.settings import SettingsError

CONF = "postgresql.conf"
HBA = "pg_hba.conf"
IDENT = "pg_ident.conf"

_UPSTREAM_SILENCE_MS = 2_000
"""How long a standby waits for an upstream that acknowledges nothing, not even a SYN; as long as wal_receiver_timeout."""

DEFAULTS = {
    "shared_buffers": "128MB",
    "effective_cache_size": "512MB",
    "maintenance_work_mem": "64MB",
    "max_connections": "100",
    "max_worker_processes": "8",
    "max_parallel_workers_per_gather": "1",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "max_logical_replication_workers": "0",
    "max_prepared_transactions": "0",
    "max_locks_per_transaction": "64",
    "wal_keep_size": "64MB",
    "max_slot_wal_keep_size": "4GB",
    "max_wal_size": "1GB",
    "min_wal_size": "128MB",
    "checkpoint_timeout": "5min",
    "checkpoint_completion_target": "0.9",
    "random_page_cost": "1.1",
    "jit": "off",
    "max_standby_streaming_delay": "2s",
    "log_min_duration_statement": "-1",
    "log_checkpoints": "on",
}
"""Fit for 2 cores, identical on every node (different limits would pause replay, DESIGN section 4); `[postgres]` in an
agent's settings file replaces them one by one."""

FIXED = {
    "wal_level": "replica",
    "hot_standby": "on",
    "hot_standby_feedback": "off",
    "synchronous_commit": "on",
    "fsync": "on",
    "full_page_writes": "on",
    "wal_log_hints": "on",
    "restart_after_crash": "off",
    "wal_retrieve_retry_interval": "100ms",
    "wal_sender_timeout": "2s",
    "wal_receiver_timeout": "2s",
    "wal_receiver_status_interval": "1s",
    "recovery_target_timeline": "latest",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "on",
    "log_destination": "jsonlog",
    "log_filename": "postgresql-%a.log",
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_file_mode": "0600",
    "log_error_verbosity": "terse",  # DETAIL lines would carry patients' data
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "unix_socket_permissions": "0700",
    "event_triggers": "on",
}
"""What the safety rules stand on: refused in `[postgres]`."""

_WITHOUT_EVENT_TRIGGERS = 17
_REFUSED = re.compile(
    r"^(synchronous_standby_names|listen_addresses|port|unix_socket_\w+|\w+_file|data_directory|config_\w+|log_directory"
    r"|primary_\w+|cluster_name|include\w*|recovery_\w+|restore_command|archive_\w+|promote_trigger_file|locum\..*"
    r"|ignore_\w+|zero_damaged_pages|allow_\w+|data_sync_retry|wal_receiver_create_temp_slot|transaction_read_only"
    r"|default_transaction_read_only|wal_sync_method|debug_\w+|hba_\w+|ident_\w+|session_preload_libraries)$"
)


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """All that a node's settings depend on besides its own fixed facts."""

    role: Role
    term: int
    revision: int
    stage: Stage = Stage.CLOSED
    names: tuple[str, ...] = ()
    standby_name: str | None = None
    upstream: str | None = None
    slot: str | None = None
    stop_before_lsn: int | None = None


def render_conf(node: Node, written: Written) -> str:
    """postgresql.conf. A standby never has synchronous names; without `upstream` its primary_conninfo is empty."""
    settings = {**DEFAULTS, **FIXED, **check_overrides(node.settings.postgres)}
    if node.installation.version[0] < _WITHOUT_EVENT_TRIGGERS:
        del settings["event_triggers"]
    primary = written.role is Role.PRIMARY
    settings |= {
        "listen_addresses": node.settings.postgres_host,
        "port": str(node.settings.postgres_port),
        "unix_socket_directories": str(node.socket_dir),
        "hba_file": str(node.conf_dir / HBA),
        "ident_file": str(node.conf_dir / IDENT),
        "log_directory": str(node.log_dir),
        "cluster_name": f"locum_{node.name}",
        "synchronous_standby_names": format_names(written.names) if primary else "",
        "primary_conninfo": "" if primary else conninfo(node, written),
        "primary_slot_name": "" if primary or written.upstream is None else written.slot or "",
        "locum.term": str(written.term),
    }
    if not primary and written.stop_before_lsn is not None:
        settings |= {
            "recovery_target_lsn": format_lsn(written.stop_before_lsn),
            "recovery_target_inclusive": "off",
            "recovery_target_action": "pause",
        }
    head = (
        f"# Written by the Locum agent of node {node.name}, revision {written.revision}, "
        f"{written.role.value}; changes by hand are overwritten.\n"
    )
    return head + "".join(f"{key} = {quote(value)}\n" for key, value in sorted(settings.items()))


def render_hba(node: Node, written: Written) -> str:
    """pg_hba.conf: who may connect at this stage. A standby's is that of an open primary."""
    everywhere, loopback = _addresses(node.settings.postgres_host)
    lines = [f"local all {SUPERUSER} scram-sha-256"]
    stage = Stage.OPEN if written.role is Role.STANDBY else written.stage
    if stage is not Stage.CLOSED:
        lines += [f"host replication {ROLE_REPLICATION} {address} scram-sha-256" for address in everywhere]
    if stage is Stage.OPEN:
        lines += [f"host {DATABASE} {ROLE_SERVER} {address} scram-sha-256" for address in everywhere]
        lines += [f"host all {SUPERUSER} {address} scram-sha-256" for address in loopback]
    return f"# {written.role.value}, {stage.value}\n" + "\n".join(lines) + "\n"


def render_passfile(password: str) -> str:
    """libpq's password file for the replication role (PostgreSQL documentation, section 32.16)."""
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    return f"*:*:*:{ROLE_REPLICATION}:{escaped}\n"


def conninfo(node: Node, written: Written) -> str:
    """primary_conninfo of a standby: the upstream's Postgres, under the standby's name with generation."""
    if written.upstream is None:
        return ""
    peer = node.settings.peers.get(written.upstream)
    if peer is None:
        raise SettingsError(f"node {node.name} does not know a peer {written.upstream!r}: add it to [peers]")
    # A walreceiver heeds no connect_timeout (libpqwalreceiver connects asynchronously): behind a path that drops packets
    # one connect lasts as long as the kernel sends SYNs, up to two minutes, with longer and longer pauses between them.
    upstream = replication_conninfo(node, peer.postgres_host, peer.postgres_port, written.standby_name or "")
    return f"{upstream} tcp_user_timeout={_UPSTREAM_SILENCE_MS}"


def replication_conninfo(node: Node, host: str, port: int, application_name: str) -> str:
    """A libpq connection string for the replication role; no password in it, that is in the passfile."""
    parts = {
        "host": host,
        "port": str(port),
        "user": ROLE_REPLICATION,
        "application_name": application_name,
        "passfile": str(node.passfile),
        "connect_timeout": "2",
        "gssencmode": "disable",
    }
    if is_loopback(host):
        parts["sslmode"] = "disable"
    return " ".join(f"{key}={_conninfo_value(value)}" for key, value in parts.items())


def format_names(names: tuple[str, ...]) -> str:
    """synchronous_standby_names that waits for all of them: empty, `"b_g7"`, or `FIRST 2 ("b_g7", "c_g1")`."""
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    return quoted[0] if len(quoted) == 1 else f"FIRST {len(quoted)} ({', '.join(quoted)})" if quoted else ""


def parse_names(text: str) -> tuple[str, ...]:
    """The names in a value of synchronous_standby_names, as `format_names` wrote them or unquoted."""
    inner = re.sub(r"^\s*(?:(?:FIRST|ANY)\s+)?\d+\s*\((.*)\)\s*$", r"\1", text, flags=re.IGNORECASE | re.DOTALL)
    found = re.findall(r'"((?:[^"]|"")*)"|([^\s,"]+)', inner)
    return tuple(quoted.replace('""', '"') if quoted else plain for quoted, plain in found)


def check_overrides(overrides: dict[str, str]) -> dict[str, str]:
    """The person's own settings, names in lower case. Raises SettingsError for what the safety rules stand on."""
    checked: dict[str, str] = {}
    for key, value in overrides.items():
        name = key.lower()
        if not re.fullmatch(r"[a-z_][a-z0-9_.]*", name) or any(char in value for char in "\n\r\0"):
            raise SettingsError(f"[postgres] {key!r} is not a PostgreSQL setting on one line")
        if name in FIXED or _REFUSED.match(name):
            raise SettingsError(
                f"[postgres] {name} is set by the agent: Locum's safety rules stand on it; leave it out"
            )
        checked[name] = value
    return checked


def quote(value: str) -> str:
    """A value as the configuration file takes it (src/backend/utils/misc/guc-file.l)."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def is_loopback(host: str) -> bool:
    """Whether an address or name stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _addresses(host: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    loopback = ("127.0.0.1/32", "::1/128")
    return (loopback if is_loopback(host) else ("all",)), loopback


def _conninfo_value(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def conf_path(node: Node) -> Path:
    """Where the postmaster reads its settings."""
    return node.conf_dir / CONF
