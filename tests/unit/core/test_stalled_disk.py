"""A primary whose disk stands still while its PostgreSQL goes on answering reads from its buffers."""

from __future__ import annotations

import msgspec
import pytest

from failover.core.decide import decide
from failover.core.model import Observation, Policy, SeenServer
from replication.model import Cause, Fault, FaultKind, Probe, ServerReport, Witness
from tests.sim.world import World
from tests.unit.core.test_decide import healthy

POLICY = Policy()
STALLED = Fault(FaultKind.STORAGE_STALLED, 0.9, "", "node a: the disk does not answer (running for 753 ms)")


def stalled(world: World, *, unmoved_ms: int | None = None, failing_ms: int | None = None) -> Observation:
    """The agent says that its disk probe is over its deadline and its SQL probe well; what others see beside that."""
    observation = world.observe()
    primary, standby = observation.nodes["a"], observation.nodes["b"]
    assert primary is not None and standby is not None
    primary = msgspec.structs.replace(primary, faults=(STALLED,), sql=Probe(ok=True, age_ms=10, took_ms=1))
    witness = Witness(peer="a", age_ms=10, tcp="connected", receive_unmoved_ms=unmoved_ms)
    standby = msgspec.structs.replace(standby, witness=witness)
    server = ServerReport(
        server="s1", term=world.store.term, phase="healthy", primary="a", writes_failing_ms=failing_ms
    )
    return msgspec.structs.replace(
        observation, nodes={"a": primary, "b": standby}, servers=(SeenServer(server, age_ms=10),)
    )


@pytest.mark.parametrize(("unmoved_ms", "failing_ms"), [(1_000, None), (None, 1_000), (1_000, 1_000)])
def test_it_is_replaced_once_somebody_else_sees_that_no_write_comes_through(
    unmoved_ms: int | None, failing_ms: int | None
) -> None:
    world = healthy()
    observation = stalled(world, unmoved_ms=unmoved_ms, failing_ms=failing_ms)
    state, decision = decide(world.store, observation, POLICY)
    assert decision.kind == "failover.begin"
    verdict = state.incident_verdict
    assert verdict is not None
    assert (verdict.kind, verdict.cause, verdict.node) == (FaultKind.STORAGE_STALLED, Cause.STORAGE, "a")


@pytest.mark.parametrize(("unmoved_ms", "failing_ms"), [(None, None), (100, 100), (0, None)])
def test_a_disk_that_is_only_slow_replaces_nobody(unmoved_ms: int | None, failing_ms: int | None) -> None:
    world = healthy()
    observation = stalled(world, unmoved_ms=unmoved_ms, failing_ms=failing_ms)
    assert decide(world.store, observation, POLICY)[1].kind != "failover.begin"


def test_a_controller_that_slept_judges_nobody() -> None:
    world = healthy()
    observation = msgspec.structs.replace(stalled(world, unmoved_ms=1_000, failing_ms=1_000), late=True)
    assert decide(world.store, observation, POLICY)[1].kind != "failover.begin"


def test_a_probe_that_stands_still_alone_and_writes_that_fail_alone_replace_nobody() -> None:
    world = healthy()
    observation = stalled(world, failing_ms=1_000)
    primary = observation.nodes["a"]
    assert primary is not None
    well = msgspec.structs.replace(primary, faults=())
    observation = msgspec.structs.replace(observation, nodes={**observation.nodes, "a": well})
    assert decide(world.store, observation, POLICY)[1].kind != "failover.begin"
