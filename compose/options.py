"""What a person may say to `locum`: flags, and the same words in a TOML file given by --config.

A flag wins over the file, the file over the default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from compose.errors import BadSettings
from compose.layout import DEFAULT_DATA, DEFAULT_PORT
from replication.wire import toml

DEMO_PRACTITIONERS = 3


class ConfigFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The TOML file of --config. The tables are merged into the settings that `up` writes for each process."""

    data: Path | None = None
    port: int | None = None
    nodes: int | None = None
    demo_practitioners: int | None = None
    workers: int | None = None
    pg_bindir: Path | None = None
    ready_file: Path | None = None
    observe_only: bool = False
    proxied: bool = False
    faultfs: bool = False
    drill_target: bool = False
    auth: bool = False
    drill_allows: list[str] | None = None
    """Kinds of steps; all that can be made here without it."""
    controller: str | None = None
    token_file: Path | None = None
    agent: dict[str, Any] = {}
    """Keys of replication/settings.py, such as `probe_interval_ms` or the table `postgres`."""
    server: dict[str, Any] = {}
    """Keys of server/settings.py, such as `cors_origins`."""
    failover: dict[str, Any] = {}
    """Keys of failover/settings.py, such as `alarm_command` or the table `policy`."""


class UpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `locum up` was told."""

    data: Path
    port: int = DEFAULT_PORT
    nodes: int = 2
    demo_practitioners: int = DEMO_PRACTITIONERS
    workers: int = 1
    pg_bindir: Path | None = None
    ready_file: Path | None = None
    observe_only: bool = False
    proxied: bool = False
    faultfs: bool = False
    drill_target: bool = False
    auth: bool = False
    drill_allows: list[str] | None = None
    agent: dict[str, Any] = {}
    server: dict[str, Any] = {}
    failover: dict[str, Any] = {}


def read_config(path: Path | None) -> ConfigFile:
    """The file of --config, or an empty one. Raises BadSettings with the file and the reason."""
    if path is None:
        return ConfigFile()
    try:
        return toml.decode(path.read_bytes(), ConfigFile)
    except OSError as error:
        raise BadSettings(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise BadSettings(f"{path} is not a valid settings file: {error}") from error


def up_options(
    config: ConfigFile,
    *,
    data: Path | None,
    port: int | None,
    nodes: int | None,
    demo_practitioners: int | None,
    pg_bindir: Path | None,
    ready_file: Path | None,
    observe_only: bool,
    proxied: bool,
    faultfs: bool = False,
    drill_target: bool = False,
    workers: int | None = None,
    auth: bool = False,
) -> UpOptions:
    """Flags over file over defaults; paths become absolute."""
    demo = _first(demo_practitioners, config.demo_practitioners, DEMO_PRACTITIONERS)
    bindir = pg_bindir or config.pg_bindir
    ready = ready_file or config.ready_file
    return UpOptions(
        data=(data or config.data or DEFAULT_DATA).absolute(),
        port=_first(port, config.port, DEFAULT_PORT),
        nodes=_first(nodes, config.nodes, 2),
        demo_practitioners=demo,
        workers=_first(workers, config.workers, 1),
        pg_bindir=None if bindir is None else bindir.absolute(),
        ready_file=None if ready is None else ready.absolute(),
        observe_only=observe_only or config.observe_only,
        proxied=proxied or config.proxied,
        faultfs=faultfs or config.faultfs,
        drill_target=drill_target or config.drill_target,
        auth=auth or config.auth,
        drill_allows=config.drill_allows,
        agent=config.agent,
        server=config.server,
        failover=config.failover,
    )


def _first(flag: int | None, from_file: int | None, default: int) -> int:
    return next(value for value in (flag, from_file, default) if value is not None)
