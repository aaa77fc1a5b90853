"""The process behind `locum agent`, `locum controller`, `locum server` and the links of `locum up --proxied`.

It imports its own part and nothing else.
"""

from __future__ import annotations

from pathlib import Path


def run_child(role: str, settings: Path) -> int:
    """Run one part until SIGTERM or SIGINT, and return its exit code. `role` is agent, controller, server or proxies."""
    if role == "agent":
        from replication.agent import run as run_agent

        return int(run_agent(settings))
    if role == "controller":
        from failover.controller import run as run_controller

        return int(run_controller(settings))
    if role == "server":
        from server.app import run as run_server

        return int(run_server(settings))
    if role == "proxies":
        from compose.proxies import run as run_proxies

        return int(run_proxies(settings))
    raise ValueError(f"no such part: {role!r}; there are agent, controller, server and proxies")
