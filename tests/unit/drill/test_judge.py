"""What is measured from a history, and what is objected to."""

from __future__ import annotations

import msgspec
import pytest

from failover.drill.checker import Finding, Kind
from failover.drill.history import Do, Facts, Operation, Outcome
from failover.drill.judge import Measured, failed, gap_ms, objections, slowest_ms
from failover.drill.scenario import Expect

FACTS = Facts(status="booked", start_s=0, end_s=1, practitioner="p", patient=None)
GOOD = Measured(
    operations=100,
    acknowledged=90,
    failed=0,
    gap_ms=500,
    slowest_ms=600,
    lost_writes=0,
    verdicts=("process_dead",),
    new_primary=True,
    healthy_again_s=4.0,
)
EXPECT = Expect(verdicts=("process_dead",), gap_ms_max=1_000)


def write(began_s: float, ended_s: float | None) -> Operation:
    outcome = Outcome.OK if ended_s is not None else Outcome.UNKNOWN
    return Operation(
        number=0, client=0, do=Do.BOOK, began_s=began_s, ended_s=ended_s, outcome=outcome, asked=FACTS, found=FACTS
    )


def test_the_gap_spans_the_fault_from_the_last_promise_before_it() -> None:
    history = [write(0, 1.0), write(1, 1.5), write(2, 4.0), write(3, 4.1), write(5, 5.0)]
    assert gap_ms(history, 2.0) == 2500
    assert gap_ms(history[:2], 2.0) is None, "nothing was acknowledged any more"
    assert slowest_ms(history) == 2000
    assert failed([*history, write(6, None)]) == 1


def test_nothing_is_objected_to_when_all_is_as_expected() -> None:
    assert objections(EXPECT, GOOD, []) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"failed": 1}, "1 requests failed"),
        ({"gap_ms": 1_001}, "for 1001 ms"),
        ({"gap_ms": None}, "no write was acknowledged after"),
        ({"new_primary": False}, "no other node was promoted"),
        ({"verdicts": ("unreachable",)}, "named unreachable, not process_dead"),
        ({"verdicts": ()}, "named nothing"),
        ({"healthy_again_s": None}, "did not become healthy"),
        ({"healthy_again_s": 61.0}, "after 61 s"),
    ],
)
def test_each_departure_is_objected_to_by_itself(change: dict[str, object], said: str) -> None:
    (objection,) = objections(EXPECT, msgspec.structs.replace(GOOD, **change), [])
    assert said in objection


def test_a_broken_promise_is_always_objected_to() -> None:
    (objection,) = objections(EXPECT, GOOD, [Finding(Kind.LOST, "id7", "it is gone")])
    assert objection == "lost: id7: it is gone"


def test_a_promotion_without_need_is_objected_to_and_either_is_either() -> None:
    quiet = msgspec.structs.replace(GOOD, verdicts=())
    assert objections(Expect(new_primary=False), quiet, []) == ["another node was promoted"]
    assert objections(Expect(new_primary="either"), quiet, []) == []
    assert "where there was nothing to name" in objections(Expect(), GOOD, [])[0]
