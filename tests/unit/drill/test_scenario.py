"""Scenario files: those that ship are whole, and nonsense is refused with its place."""

from __future__ import annotations

import pytest

from failover.drill.errors import ScenarioRefused
from failover.drill.scenario import ANY_VERDICT, Disk, parse_scenario, shipped
from replication.model import FaultKind


def test_those_that_ship_can_be_read_and_say_why_they_matter() -> None:
    found = shipped()
    assert len(found) == len({scenario.name for scenario in found}) >= 40
    for scenario in found:
        assert scenario.why.endswith("."), scenario.name
        assert len(scenario.why) > 40, scenario.name
        assert scenario.expect.gap_ms_max > 0
        for verdict in scenario.expect.verdicts:
            assert verdict in {*FaultKind, ANY_VERDICT}, f"{scenario.name}: no such verdict: {verdict}"


def test_what_a_scenario_needs_follows_from_its_steps() -> None:
    needs = {scenario.name: (scenario.needs_fuse, scenario.needs_proxies) for scenario in shipped()}
    assert needs["sigkill-primary"] == (False, False)
    assert needs["wal-eio"] == (True, False)
    assert needs["disk-vanishes"] == (True, False)
    assert needs["power-loss-both-nodes"] == (True, False)
    assert needs["cut-primary-off"] == (False, True)


@pytest.mark.parametrize(
    "text",
    [
        "name = 'x'",
        "name = 'x'\nwhy = 'y'\nsteps = []",
        "name = 'x'\nwhy = 'y'\n[[steps]]\ndo = 'dance'",
        "name = 'x'\nwhy = 'y'\n[[steps]]\ndo = 'signal'\nto = ['server']\nsignal = 'HELLO'",
        "name = 'x'\nwhy = 'y'\n[[steps]]\ndo = 'disk'\nnode = 'primary'\nfault = {kind = 'fire'}",
        "name = 'x'\nwhy = 'y'\n[[steps]]\ndo = 'disk'\nnode = 'third'\nfault = {kind = 'eio'}",
        "name = 'x'\nwhy = 'y'\ncolour = 'red'\n[[steps]]\ndo = 'operator'\naction = 'switchover'",
        "name = 'x'\nwhy = 'y'\n[[steps]]\ndo = 'operator'\naction = 'switchover'\n[load]\nrate = 0",
        "name = 'x'\nwhy = 'y'\n[[steps]]\ndo = 'files'\nnode = 'primary'\ndamage = 'rust'",
        "name = 'x'\nwhy = 'y'\n[[steps]]\ndo = 'files'\nnode = 'primary'\ndamage = 'noise'\nrelation = 'a; b'",
        "name = 'x'\nwhy = 'y'\n[[steps]]\ndo = 'wal_tail'\nnode = 'primary'\nlost_kb = 0",
        "name = ",
    ],
)
def test_what_makes_no_sense_is_refused_with_the_name_of_its_file(text: str) -> None:
    with pytest.raises(ScenarioRefused, match=r"mine\.toml"):
        parse_scenario(text.encode(), "mine.toml")


def test_a_scenario_of_ones_own_can_be_written_in_a_few_lines() -> None:
    text = "name = 'x'\nwhy = 'y'\n[[steps]]\ndo = 'disk'\nnode = 'standby'\nat_s = 2.5\nfault = {kind = 'slow', latency_ms = 50}"
    scenario = parse_scenario(text.encode(), "mine.toml")
    (step,) = scenario.steps
    assert isinstance(step, Disk)
    assert (step.node, step.at_s) == ("standby", 2.5)
    assert scenario.expect.failed_max == 0
