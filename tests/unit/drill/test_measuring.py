"""What a drill says in the end of a cluster that falls ill once more while its rows are being read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from failover.drill import runner
from failover.drill.checker import Kind, Rows
from failover.drill.cluster import Cluster
from failover.drill.errors import ClusterAway
from failover.drill.history import Do, Facts, HistoryWriter, Operation, Outcome
from failover.drill.scenario import parse_scenario
from failover.drill.workload import Workload

SCENARIO = b"""
name = "ill-again"
why = "Its standby never comes back."
[[steps]]
do = "signal"
to = ["postgres primary"]
"""
FACTS = Facts(status="booked", start_s=0, end_s=1800, practitioner="dr", patient="ada", location="here")
BOOKED = Operation(
    number=0,
    client=0,
    do=Do.BOOK,
    appointment="gone",
    outcome=Outcome.OK,
    began_s=1.0,
    ended_s=1.1,
    asked=FACTS,
    found=FACTS,
)


class IllAgain(Cluster):
    """Its node `a` was healthy, and is away ever since its rows are asked for; `b` serves, and holds nothing."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"))
        self.primary = "a"

    async def view(self) -> dict[str, Any]:
        return {"phase": "degraded", "primary": self.primary, "nodes": {"a": {}, "b": {}}, "alarms": []}

    async def until(self, done: Callable[[dict[str, Any]], bool], deadline_s: float) -> dict[str, Any]:
        self.primary = "b"
        raise ClusterAway("not as wanted after 60 s: phase degraded, primary b")

    async def incidents(self) -> list[dict[str, Any]]:
        return []

    async def rows(self, node: str) -> Rows:
        if node == "a":
            raise ClusterAway("a refuses")
        return {}


async def test_what_serves_in_the_end_is_checked_though_it_never_became_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_PRIMARY_AWAY_S", 0.01)
    drill = runner._Drill(parse_scenario(SCENARIO, "here"), tmp_path, 1, lambda what: None, None)
    history = HistoryWriter(tmp_path / "history.jsonl")
    workload = Workload("http://nowhere", [], history, seed=1, rate=1.0)
    workload.operations.append(BOOKED)
    measured, findings = await drill._measure(IllAgain(), workload, "a", 0.0, 3.0)
    history.close()
    assert [finding.kind for finding in findings] == [Kind.LOST]
    assert measured.healthy_again_s is None
    assert measured.new_primary
