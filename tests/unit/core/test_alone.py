"""A primary that is all that is left and damaged: what it does for itself, and when a copy of it may be made."""

from __future__ import annotations

import msgspec
import pytest

from failover.core.candidate import may_be_copied
from failover.core.decide import decide
from failover.core.model import Policy
from failover.core.standing_by import may_keep_what_is_equal
from replication.actions import Reindex
from replication.model import ActionResult, DataDirectory, FaultKind, Place, ReceiptCheck
from tests.unit.core.test_damage import PLACE, POLICY, broken_down, fault
from tests.unit.core.test_decide import healthy

WAL_PLACE = Place("pg_wal/000000010000000000000019")


@pytest.mark.parametrize("kind", [FaultKind.STALE_PAGE, FaultKind.PAGE_CORRUPT, FaultKind.WAL_CORRUPT])
@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("lost", [0, 1])
def test_damage_is_copied_only_when_it_is_all_that_is_left_and_nothing_acknowledged_is_missing(
    kind: FaultKind, is_new: bool, lost: int
) -> None:
    world = healthy()
    primary = world.observe().nodes["a"]
    assert primary is not None
    found = fault(kind, WAL_PLACE if kind is FaultKind.WAL_CORRUPT else PLACE)
    alone = msgspec.structs.replace(primary, names=(), faults=(found,))
    nodes = {
        "a": msgspec.structs.replace(world.store.nodes["a"], faults=(found,), reindexed=(PLACE,)),
        "b": msgspec.structs.replace(world.store.nodes["b"], eligible=False),
    }
    check = ReceiptCheck(1, 10, 10 - lost, lost=lost)
    state = msgspec.structs.replace(world.store, nodes=nodes, incident_receipts=check, incident_receipts_are_new=is_new)
    expected = kind is not FaultKind.PAGE_CORRUPT and is_new and lost == 0
    assert may_be_copied(state, nodes["a"], alone, POLICY) is expected
    assert not may_be_copied(state, nodes["a"], alone, Policy(copy_when_alone=False))
    reindexes_nothing = msgspec.structs.replace(nodes["a"], reindexed=())
    assert may_be_copied(state, reindexes_nothing, alone, POLICY) is (expected and kind is FaultKind.WAL_CORRUPT)
    eligible = {**nodes, "b": world.store.nodes["b"]}
    assert not may_be_copied(msgspec.structs.replace(state, nodes=eligible), nodes["a"], alone, POLICY)


def test_a_primary_that_is_all_that_is_left_makes_its_indexes_anew_once() -> None:
    world = healthy()
    state, observation = world.store, broken_down(world, blamed="a")
    primary = observation.nodes["a"]
    assert primary is not None
    alone = msgspec.structs.replace(primary, names=())
    nodes = {**state.nodes, "b": msgspec.structs.replace(state.nodes["b"], eligible=False, needs_rebuild=True)}
    state = msgspec.structs.replace(state, nodes=nodes)
    observation = msgspec.structs.replace(observation, nodes={**observation.nodes, "a": alone})
    kinds: list[str] = []
    for _ in range(6):
        state, decision = decide(state, observation, POLICY)
        kinds.append(decision.kind)
        asked = [action.op for action in decision.actions if isinstance(action.op, Reindex)]
        if asked:
            assert asked == [Reindex((PLACE,), primary.incarnation or "")]
            pending = state.nodes["a"].pending
            assert pending is not None
            done = (ActionResult(pending.revision, "reindex", True, "done"),)
            alone = msgspec.structs.replace(alone, revision=pending.revision, results=done)
            observation = msgspec.structs.replace(observation, nodes={**observation.nodes, "a": alone})
    assert kinds.count("primary.reindex") == 1
    assert state.nodes["a"].reindexed == (PLACE,)


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        (FaultKind.PAGE_CORRUPT, DataDirectory.PRESENT, True),
        (FaultKind.STORAGE_ERROR, DataDirectory.PRESENT, False),
        (FaultKind.PAGE_CORRUPT, DataDirectory.HALF_BUILT, False),
    ],
)
def test_only_differences_are_copied_unless_the_disk_failed(
    kind: FaultKind, data: DataDirectory, expected: bool
) -> None:
    world = healthy()
    report = world.observe().nodes["b"]
    assert report is not None
    record = msgspec.structs.replace(world.store.nodes["b"], faults=(fault(kind, PLACE),))
    assert may_keep_what_is_equal(record, msgspec.structs.replace(report, data=data)) is expected
