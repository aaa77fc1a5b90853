"""Which relation is checked next."""

from __future__ import annotations

from collections import Counter

from replication.scrub.relation_checks import Target, next_target


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
