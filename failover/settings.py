"""Settings of the controller: a TOML file. Raises SettingsError with the file and the reason."""

from __future__ import annotations

from pathlib import Path

import msgspec

from failover.core.model import Policy
from failover.errors import FailoverError
from failover.policy import PolicyError, check_policy
from replication.wire import toml


class SettingsError(FailoverError):
    """A settings file cannot be used: names the file, the key and what to write there."""


class NodeAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a node's agent and its PostgreSQL listen."""

    agent_url: str
    postgres_host: str
    postgres_port: int


class DrillTarget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The mark of a deployment that may be made to fail. `ready_file`: of `locum up`, on the controller's host; `allows`: the
    kinds of steps that may be made against it (failover/drill/scenario.py)."""

    ready_file: Path
    allows: tuple[str, ...] = ()


class ControllerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The controller's own facts; `policy` overrides the core's limits and time-outs (failover/core/model.py)."""

    store_path: Path
    token_file: Path
    nodes: dict[str, NodeAddress]
    listen_host: str = "127.0.0.1"
    listen_port: int = 8081
    database: str = "locum"
    alarm_command: list[str] = []
    server_urls: list[str] = []
    """Every server that acknowledges bookings: all of them are asked for their receipts before a lone primary opens."""
    drill: DrillTarget | None = None
    """None: nobody may drill here."""
    policy: Policy = Policy()


def load(path: Path) -> ControllerSettings:
    """Read and check a settings file. Raises SettingsError."""
    try:
        found = toml.decode(path.read_bytes(), ControllerSettings)
        check_policy(found.policy)
    except OSError as error:
        raise SettingsError(f"cannot read the controller's settings {path}: {error.strerror}") from error
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise SettingsError(f"{path} is not a valid controller settings file: {error}; see docs/PROTOCOL.md") from error
    except PolicyError as error:
        raise SettingsError(f"{path}: {error}") from error
    if len(found.nodes) != 2:
        raise SettingsError(f"{path} names {len(found.nodes)} nodes; the write barrier is complete for exactly two")
    return found
