"""The simulator in the test run: every seed passes, and each rule, taken out of the core, is caught by some seed."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from failover.core import candidate, failing_over, settle, starting
from failover.core.invariants import InvariantViolation
from tests.sim.world import LostWrite, World

SEEDS = 500


@pytest.mark.parametrize("block", range(10))
def test_no_acknowledged_write_is_lost_and_every_seed_converges(block: int) -> None:
    size = SEEDS // 10
    for seed in range(block * size, (block + 1) * size):
        try:
            World(seed).run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed} (python -m tests.sim --seed {seed}): {error}") from error


def test_seed_790_a_candidate_that_lost_its_wal_while_promoted_is_not_opened() -> None:
    world = World(790)
    world.run()
    assert "failover.stuck" in world.kinds


def test_a_seed_repeats_exactly() -> None:
    first, second = World(7), World(7)
    first.run()
    second.run()
    assert first.kinds == second.kinds
    assert first.acknowledged == second.acknowledged
    assert first.store == second.store


def always(*_args: object, **_kwargs: object) -> bool:
    return True


def never(*_args: object, **_kwargs: object) -> bool:
    return False


RULES: dict[str, tuple[tuple[ModuleType, str, Any], ...]] = {
    "a growth needs its proof": ((settle, "growth_is_proved", always),),
    "only an eligible and verified standby is promoted": (
        (candidate, "is_eligible", always),
        (candidate, "is_verified", always),
    ),
    "a candidate that lost its WAL while it was promoted stays closed": ((failing_over, "has_lost_wal", never),),
    "a lone primary opens only when nothing can be missing": ((starting, "lone_start_is_proved", always),),
    "an eligible peer is compared before a start": ((starting, "is_eligible", never),),
    "an action is settled only when it ended or can never be accepted": ((settle, "can_never_be_accepted", always),),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_missing_rule_is_caught_by_some_seed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, replacement in RULES[rule]:
        monkeypatch.setattr(module, name, replacement)
    for seed in (790, *range(SEEDS)):
        try:
            World(seed).run()
        except (LostWrite, InvariantViolation, AssertionError):
            return
    pytest.fail(f"{SEEDS} seeds pass without the rule: {rule}")
