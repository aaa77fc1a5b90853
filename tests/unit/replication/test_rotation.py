"""Which relation is checked next."""

from __future__ import annotations

from collections import Counter

import pytest

from replication.scrub.rotation import Target, next_target
from replication.scrub.service import rest_s


def target(oid: int) -> Target:
    return Target(oid, f"r{oid}", "r", "heap", f"base/5/{oid}", True)


def test_all_have_their_turn_and_the_bookings_more_often() -> None:
    targets = [target(oid) for oid in (1259, 1247, 16_400, 16_401, 16_402)]
    looked: dict[int, int] = {}
    seen: list[int] = []
    for turn in range(1, 101):
        found = next_target(targets, looked, turn)
        assert found is not None
        looked[found.oid] = turn
        seen.append(found.oid)
    counts = Counter(seen)
    assert counts[1259] == counts[1247] == 25
    assert min(counts[oid] for oid in (16_400, 16_401, 16_402)) >= 16
    assert set(seen[:6]) >= {16_400, 16_401, 16_402}


def test_a_new_relation_comes_first_and_nothing_is_no_error() -> None:
    assert next_target([], {}, 1) is None
    found = next_target([target(16_400), target(16_500)], {16_400: 3}, 4)
    assert found is not None
    assert found.oid == 16_500
    alone = next_target([target(16_400)], {}, 5)
    assert alone is not None, "no catalogs to look at: its turn is given to what there is"


@pytest.mark.parametrize(
    ("took_s", "pace", "rests_s"),
    [
        (0.01, 1.0, 0.01 / 0.03),
        (0.01, 0.1, 1.0),
        (0.001, 1.0, 0.05),
        (0.001, 0.1, 0.001 / 0.003),
        (0.1, 0.1, 0.1 / 0.03),
    ],
)
def test_a_short_look_is_followed_by_another_within_a_second_on_the_busiest_machine(
    took_s: float, pace: float, rests_s: float
) -> None:
    assert rest_s(took_s, 0.03, pace) == pytest.approx(rests_s)


def test_after_a_long_look_on_a_busy_machine_the_rest_is_longer() -> None:
    assert rest_s(0.3, 0.03, 0.1) == pytest.approx(10)
    assert rest_s(4.0, 0.03, 0.1) == pytest.approx(4 / 0.003)
    assert rest_s(4.0, 0.03, 1.0) == pytest.approx(4 / 0.03)
    rests = [rest_s(took / 100, 0.03, 0.1) for took in range(1, 300)]
    assert rests == sorted(rests)


def test_catalogs_have_every_fourth_turn_where_it_is_said_so() -> None:
    targets = [target(oid) for oid in (1259, 16_400, 16_401)]
    looked: dict[int, int] = {}
    for turn in range(1, 13):
        found = next_target(targets, looked, turn, 4)
        assert found is not None and (found.oid == 1259) is (turn % 4 == 0)
        looked[found.oid] = turn
