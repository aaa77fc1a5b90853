"""The process behind `locum agent`, `locum controller` and `locum server`: imports its own part and nothing else."""

from __future__ import annotations

from pathlib import Path


def run_child(role: str, settings: Path) -> int:
    """Run one part until SIGTERM or SIGINT, and return its exit code. `role` is agent, controller or server."""
    if role == "agent":
        from replication import agent

        return agent.run(settings)
    if role == "controller":
        from failover import controller

        return controller.run(settings)
    if role == "server":
        from server import app

        return app.run(settings)
    raise ValueError(f"no such part: {role!r}; there are agent, controller and server")
