"""The process behind `locum agent`, `locum controller`, `locum server` and the links of `locum up --proxied`.

It imports its own part and nothing else.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path


def run_child(role: str, settings: Path) -> int:
    """Run one part until SIGTERM or SIGINT, and return its exit code. `role`: see `_part`."""
    run = _part(role)
    # Modules live as long as the process. A collector that looks through them again and again stops it for 20 to 100 ms
    # each time, as long as a whole failover.
    gc.collect()
    gc.freeze()
    return int(run(settings))


def _part(role: str) -> Callable[[Path], int]:
    if role == "agent":
        from replication.agent import run as run_agent

        return run_agent
    if role == "controller":
        from failover.controller import run as run_controller

        return run_controller
    if role == "server":
        from server.app import run as run_server

        return run_server
    if role == "proxies":
        from compose.proxies import run as run_proxies

        return run_proxies
    if role == "faultfs":
        from failover.drill.faultfs.serve import run as run_faultfs

        return run_faultfs
    raise ValueError(f"no such part: {role!r}; there are agent, controller, server, proxies and faultfs")
