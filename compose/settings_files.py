"""The settings file of each process of `locum up`, written anew at every start (mode 0600)."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

import failover.settings
import replication.settings
import server.settings
from compose.development_auth import server_auth
from compose.errors import BadSettings
from compose.layout import HOST, NODES, WORKERS_MAX, Layout, Ports, worker_names
from compose.links import links_between
from compose.options import UpOptions
from compose.times import with_shared_times
from replication.wire.secrets import write_private

_CONNECTIONS = 16
"""Of all workers together, and two more for each."""
_REFUSALS = (replication.settings.SettingsError, failover.settings.SettingsError, server.settings.SettingsError)


def write_settings(layout: Layout, ports: Ports, options: UpOptions) -> None:
    """Write agent-a, agent-b, controller and server, and proxies where there are links.

    What the person's file says wins, except over paths and ports. Raises BadSettings when its tables contradict each other.
    """
    options = with_shared_times(options)
    for node in NODES:
        _write(layout.settings(f"agent-{node}"), options.agent, agent_settings(layout, ports, options, node))
    _write(layout.settings("controller"), options.failover, controller_settings(layout, ports, options))
    for worker in worker_names(options.workers):
        said = {key: value for key, value in options.server.items() if worker == "server" or key != "clinic_file"}
        _write(layout.settings(worker), said, server_settings(layout, ports, options, worker))
    if options.faultfs:
        for node in NODES:
            _write(layout.settings(f"faultfs-{node}"), {}, faultfs_settings(layout, node))
    if ports.proxied:
        _write(layout.settings("proxies"), {}, proxies_settings(layout, ports))


def check_settings(layout: Layout) -> None:
    """Read each file as its process will. Raises BadSettings with what the person's own tables got wrong."""
    checks: list[tuple[str, Callable[[Path], object]]] = [
        *((f"agent-{node}", replication.settings.load) for node in NODES),
        ("controller", failover.settings.load),
        ("server", server.settings.load),
    ]
    for process, load in checks:
        try:
            load(layout.settings(process))
        except _REFUSALS as error:
            raise BadSettings(f"the settings for {process} are refused: {error}") from error


def agent_settings(layout: Layout, ports: Ports, options: UpOptions, node: str) -> dict[str, Any]:
    """Keys of replication/settings.py."""
    peers = {
        peer: {
            "agent_url": ports.url(ports.towards(f"agent-{node}", f"agent-{peer}")),
            "postgres_host": HOST,
            "postgres_port": ports.towards(f"node-{node}", f"postgres-{peer}"),
        }
        for peer in NODES
        if peer != node
    }
    settings: dict[str, Any] = {
        "name": node,
        "data_dir": str(layout.pgdata(node)),
        "state_dir": str(layout.agent_state(node)),
        "secrets_dir": str(layout.secrets),
        "schema_file": str(schema_file()),
        "listen_host": HOST,
        "listen_port": ports.agent(node),
        "postgres_host": HOST,
        "postgres_port": ports.postgres(node),
        "peers": peers,
    }
    if options.pg_bindir is not None:
        settings["bindir"] = str(options.pg_bindir)
    return settings


def controller_settings(layout: Layout, ports: Ports, options: UpOptions) -> dict[str, Any]:
    """Keys of failover/settings.py. The controller itself never connects to PostgreSQL: it only hands these addresses on to
    the servers in the topology record, so they are the servers' links."""
    settings: dict[str, Any] = {
        "listen_host": HOST,
        "listen_port": ports.controller,
        "store_path": str(layout.store / "locum.sqlite"),
        "token_file": str(layout.token_file),
        "server_urls": [ports.url(ports.towards("controller", "server"))],
        "nodes": {
            node: {
                "agent_url": ports.url(ports.towards("controller", f"agent-{node}")),
                "postgres_host": HOST,
                "postgres_port": ports.towards("server", f"postgres-{node}"),
            }
            for node in NODES
        },
    }
    if options.drill_target:
        settings["drill"] = {"ready_file": str(layout.locum_json), "allows": _drill_allows(options)}
    if options.observe_only:
        settings["policy"] = {"observe_only": True}
    return settings


def _drill_allows(options: UpOptions) -> list[str]:
    """What a drill may do here: what the person said, else whatever can be made."""
    if options.drill_allows is not None:
        return options.drill_allows
    disks = ["disk", "power_loss"] if options.faultfs else []
    links = ["links"] if options.proxied else []
    return ["signal", "files", "wal_tail", "clock", "operator", "sql", *disks, *links]


def server_settings(layout: Layout, ports: Ports, options: UpOptions, worker: str = "server") -> dict[str, Any]:
    """Keys of server/settings.py. The first worker keeps the demo clinic, and the receipts of workers that are no more."""
    workers = worker_names(options.workers)
    others = [layout.server_state(name) / "receipts" for name in worker_names(WORKERS_MAX) if name not in workers]
    is_first = worker == workers[0]
    return {
        "name": worker,
        "siblings": [str(layout.server_state(name) / "receipts") for name in workers if name != worker],
        "adopted": [str(path) for path in others if is_first and path.exists()],
        "reuse_port": len(workers) > 1,
        **({"connections_max": _CONNECTIONS // len(workers) + 2} if len(workers) > 1 else {}),
        "listen_host": HOST,
        "listen_port": ports.server,
        "controller_url": ports.url(ports.towards("server", "controller")),
        "token_file": str(layout.token_file),
        "password_file": str(layout.secrets / "server"),
        "seal_key_file": str(layout.secrets / "seal"),
        "state_dir": str(layout.server_state(worker)),
        **({"auth": server_auth(layout)} if options.auth and "auth" not in options.server else {}),
        "demo_practitioners": options.demo_practitioners if is_first else 0,
    }


def proxies_settings(layout: Layout, ports: Ports) -> dict[str, Any]:
    """Keys of compose/links.py."""
    listening = ports.listening()
    return {
        "control": str(layout.links_socket),
        "links": {
            link.name: {"listen_port": ports.link(link), "target_port": listening[link.target]}
            for link in links_between(NODES)
        },
    }


def faultfs_settings(layout: Layout, node: str) -> dict[str, Any]:
    """Keys of failover/drill/faultfs/serve.py."""
    return {
        "backing": str(layout.backing(node)),
        "mount": str(layout.pgdata(node)),
        "socket": str(layout.faultfs_socket(node)),
        "log": str(layout.faultfs_log(node)),
    }


def schema_file() -> Path:
    """The schema that the primary's agent applies, as installed beside the server."""
    return Path(str(files("server") / "schema.sql"))


def _write(path: Path, said: dict[str, Any], made: dict[str, Any]) -> None:
    merged = {**said, **made}
    for key, value in made.items():
        if isinstance(value, dict) and isinstance(said.get(key), dict):
            merged[key] = {**said[key], **value}
    write_private(path, msgspec.toml.encode(merged).decode())
