"""What the command line shows: pure functions from JSON to text."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from rich.console import Console, RenderableType

from compose.agents_view import describe
from compose.cli_operate import parse_duration
from compose.cli_scrub import wal_cells
from compose.incident_view import markdown, table
from compose.processes import restart_delay_s
from compose.shutdown import stop_order
from compose.status_view import render
from replication.model import NodeReport, Postmaster, Role

HEALTHY: dict[str, Any] = {
    "term": 3,
    "primary": "b",
    "phase": "healthy",
    "paused": False,
    "confirming": ["a_g2"],
    "nodes": {
        "b": {"role": "primary", "state": "running", "timeline": 2, "flush_lsn": "0/5000060", "eligible": False},
        "a": {
            "role": "standby",
            "state": "running",
            "eligible": True,
            "promotable": True,
            "lag_bytes": 0,
            "faults": [],
        },
    },
}


def text_of(drawn: RenderableType) -> str:
    console = Console(width=160, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(drawn)
    return captured.get()


def test_status_shows_phase_term_primary_and_a_row_a_node() -> None:
    text = text_of(render(HEALTHY))
    assert "healthy" in text
    assert "term 3" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["a", "standby", "running", "yes"] in [row[:4] for row in rows]
    assert ["b", "primary", "running", "-"] in [row[:4] for row in rows]


def test_status_shows_faults_alarms_progress_and_the_next_step() -> None:
    nodes = {
        "a": {"role": "standby", "state": "rebuilding", "progress": 0.4, "eligible": False, "faults": []},
        "b": {"role": "primary", "state": "stopped", "faults": [{"kind": "process_dead", "sentence": "killed [9]"}]},
    }
    alarms = [{"name": "lone_primary", "since": "2026-01-01T00:00:00Z", "sentence": "b died alone"}]
    down = {"phase": "no_primary", "nodes": nodes, "alarms": alarms, "next_step": "run this", "term": None}
    text = text_of(render({**HEALTHY, **down}))
    for words in ("rebuilding 40%", "killed [9]", "lone_primary", "b died alone", "run this", "no_primary"):
        assert words in text


def report(node: str, **values: Any) -> NodeReport:
    return NodeReport(node=node, boot_id="x", seq=1, clock_ms=1, **values)


def test_without_a_controller_the_agents_are_told_with_what_is_unknown() -> None:
    running = {"postmaster": Postmaster.RUNNING, "term": 4, "flush_lsn": 0x5000060}
    view = describe({"a": report("a", in_recovery=False, **running), "b": None}, "nobody listens")
    assert (view["phase"], view["term"], view["primary"]) == ("unknown", 4, "a")
    assert view["nodes"]["a"]["flush_lsn"] == "0/5000060"
    assert view["nodes"]["b"]["state"] == "unreachable"
    assert "nobody listens" in text_of(render(view))


def test_two_nodes_that_both_say_primary_are_not_decided_by_the_command_line() -> None:
    both = {"in_recovery": False, "postmaster": Postmaster.RUNNING}
    assert describe({"a": report("a", **both), "b": report("b", **both)}, "")["primary"] is None
    stopped = describe({"a": report("a", configured_role=Role.PRIMARY, fenced=True)}, "")
    assert stopped["nodes"]["a"]["state"] == "fenced"
    assert stopped["primary"] is None


def test_an_incident_is_a_row_and_a_page() -> None:
    incident = {
        "id": "i1",
        "opened_at": "2026-01-01T00:00:00Z",
        "closed_at": None,
        "node": "a",
        "outage_ms": 71,
        "verdict": {
            "cause": "process",
            "kind": "process_dead",
            "sentence": "a's PostgreSQL was killed",
            "confidence": 1.0,
            "evidence": [{"what": "exit", "by": "agent a", "at": "t", "value": "signal 9"}],
            "ruled_out": [{"cause": "storage", "by": "disk probe took 3 ms"}],
        },
        "timeline": [{"at": "t", "event": "failover.promoted", "sentence": "b is primary"}],
    }
    assert "71 ms" in text_of(table([incident]))
    page = markdown(incident)
    for words in ("a's PostgreSQL was killed", "signal 9", "not storage", "failover.promoted", "not yet"):
        assert words in page


@pytest.mark.parametrize("text", ["90s", "30m", "2h", "1500ms"])
def test_durations_are_taken(text: str) -> None:
    assert parse_duration(text) == text


@pytest.mark.parametrize("text", ["", "30", "m", "-3m", "1.5h", "10ms", "3d", "30 m"])
def test_other_durations_are_wrong_usage(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_duration(text)


def test_the_first_restart_is_at_once_and_later_ones_wait_longer_up_to_a_bound() -> None:
    delays = [restart_delay_s(deaths) for deaths in range(1, 40)]
    assert delays[:4] == [0.0, 0.25, 0.5, 1.0]
    assert delays == sorted(delays)
    assert max(delays) == 2.0


def test_everything_stops_in_order_the_primary_before_the_standby() -> None:
    names = ["agent-a", "agent-b", "controller", "server"]
    assert stop_order(names, "b") == ["server", "controller", "agent-b", "agent-a"]
    assert stop_order(names, None) == ["server", "controller", "agent-a", "agent-b"]
    assert stop_order(["proxies", *names], "b") == ["server", "controller", "agent-b", "agent-a", "proxies"]


def test_what_verification_has_yet_to_come_to_is_shown_where_there_is_any() -> None:
    ledger = {"lag_bytes": 250_000, "verified_blocks": 7, "unverified_bytes": 0, "chain_checked": True}
    compared = {"pages": 30}
    assert wal_cells({"ledger": ledger, "comparison_of_pages": compared}) == ("0.2 MB", "7 pages", "30")
    behind = ledger | {"unverified_bytes": 12_400_000, "chain_checked": False}
    assert wal_cells({"ledger": behind}) == ("0.2 MB", "7 pages, 12 MB to come, no chain check", "-")
    assert wal_cells({"ledger": None}) == ("-", "-", "-")
