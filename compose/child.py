"""The process behind `locum agent`, `locum controller` and `locum server`: imports its own part and nothing else."""

from __future__ import annotations

from pathlib import Path


def run_child(role: str, settings: Path) -> int:
    """Run one part until SIGTERM or SIGINT, and return its exit code. `role` is agent, controller or server."""
    if role == "agent":
        from replication.agent import run
    elif role == "controller":
        from failover.controller import run
    elif role == "server":
        from server.app import run
    else:
        raise ValueError(f"no such part: {role!r}; there are agent, controller and server")
    return run(settings)
