"""What is left out while a part that it needs does not exist yet, and the line that says so at the head of the run."""

from __future__ import annotations

from importlib.util import find_spec

AGENT_PARTS = ("certify", "closed_start", "growth_probe", "promotion", "rebuild", "wal_service")
MISSING = [f"replication.{part}" for part in AGENT_PARTS if find_spec(f"replication.{part}") is None]

NEEDS_A_WHOLE_AGENT = [
    "integration/replication/test_adoption.py",
    "integration/replication/test_agent_api.py",
    "integration/replication/test_lifecycle.py",
    "integration/replication/test_pair.py",
]
collect_ignore = NEEDS_A_WHOLE_AGENT if MISSING else []


def pytest_report_header() -> str | None:
    """Name the files left out and why."""
    if not MISSING:
        return None
    return f"skipped: {', '.join(NEEDS_A_WHOLE_AGENT)}: parts of the agent do not exist yet: {', '.join(MISSING)}"
