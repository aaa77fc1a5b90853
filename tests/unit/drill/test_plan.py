"""The seeded plan of a workload, and how an answer is taken."""

from __future__ import annotations

from collections import Counter

import pytest

from failover.drill.clinic import Answer
from failover.drill.history import Do, Outcome
from failover.drill.plan import for_run, plan
from failover.drill.workload import outcome_of


def test_the_same_seed_plans_the_same_and_another_one_does_not() -> None:
    assert plan(1) == plan(1)
    assert plan(1)[:50] != plan(2)[:50]


def test_a_plan_does_everything_and_uses_no_key_twice() -> None:
    planned = plan(3)[:5_000]
    kinds = Counter(item.do for item in planned)
    assert set(kinds) == set(Do)
    assert kinds[Do.BOOK] > 2_500
    keys = [item.key for item in planned] + [item.rival for item in planned if item.rival is not None]
    assert len(set(keys)) == len(keys) > len(planned)
    assert any(item.comment is not None and len(item.comment) > 1_800 for item in planned)
    assert any(item.again for item in planned)
    assert any(item.hangs_up for item in planned)


def test_two_runs_of_a_seed_do_the_same_under_keys_of_their_own() -> None:
    planned = plan(3, 200)
    one, other = ([for_run(item, run) for item in planned] for run in ("a1", "b2"))
    assert [item._replace(key="", rival=None) for item in one] == [item._replace(key="", rival=None) for item in other]
    keys = [{item.key for item in items} | {item.rival for item in items if item.rival} for items in (one, other)]
    assert not keys[0] & keys[1]
    assert for_run(planned[0], "") == planned[0]


@pytest.mark.parametrize(
    ("do", "answer", "outcome"),
    [
        (Do.BOOK, None, Outcome.UNKNOWN),
        (Do.BOOK, Answer(503, None), Outcome.UNKNOWN),
        (Do.BOOK, Answer(500, None), Outcome.UNKNOWN),
        (Do.BOOK, Answer(409, None), Outcome.FAIL),
        (Do.BOOK, Answer(201, {}), Outcome.OK),
        (Do.CANCEL, Answer(404, None), Outcome.FAIL),
        (Do.READ, Answer(404, None), Outcome.OK),
        (Do.READ, None, Outcome.UNKNOWN),
    ],
)
def test_only_a_clear_refusal_has_not_happened(do: Do, answer: Answer | None, outcome: Outcome) -> None:
    assert outcome_of(do, answer) is outcome
