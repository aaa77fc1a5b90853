"""The simulator in the test run: every seed passes, and each rule, taken out, is noticed by some seed."""

from __future__ import annotations

import pytest

from failover.core.invariants import InvariantViolation
from tests.sim.rules import RULES, without
from tests.sim.world import World

SEEDS = 500
BLOCKS = 10

NOTICED_BY = {
    "1: every stored state has a revision of its own": 0,
    "1: every promotion is a new term": 5,
    "2: not eligible is journalled before a relax": 17,
    "2: a standby is eligible only after its growth was proved": 2,
    "3: only an eligible standby is promoted": 26,
    "4: damage is neither promoted nor copied": 31,
    "5: a former primary is rebuilt": 25,
    "5: a rebuilt node needs its certificate": 6,
    "a lone primary opens only when nothing can be missing": 6,
    "only an eligible peer is compared and promoted on wal_lost": 16,
    "an eligible peer is compared before a start": 128,
    "an action is settled only when it can run no more": 0,
    "agents refuse revisions that are not above the highest": 6,
    "agents refuse what is late, or was decided for another start": 8,
    "agents prove the history before a start as standby": 54,
    "agents prove the history by its bytes, not by its length": 84,
    "agents fence a primary whose lease has run out": 207,
    "agents compare WAL truly": 128,
}
"""A seed for each rule that walks of this length find; another one is looked for when the simulator's choices change. The
others have a trace in test_exhaustive.py."""


@pytest.mark.parametrize("block", range(BLOCKS))
def test_nothing_is_lost_no_invariant_breaks_and_every_seed_converges(block: int) -> None:
    for seed in range(block, SEEDS, BLOCKS):
        try:
            World(seed).run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed} (python -m tests.sim --seed {seed}): {error}") from error


def test_a_seed_repeats_exactly() -> None:
    first, second = World(7), World(7)
    first.run()
    second.run()
    assert first.kinds == second.kinds
    assert first.acknowledged == second.acknowledged
    assert first.store == second.store


def test_seeds_that_found_something_stay() -> None:
    for seed in (790, 1163):
        World(seed).run()


@pytest.mark.parametrize("name", NOTICED_BY)
def test_a_missing_rule_is_noticed_in_the_world(name: str) -> None:
    rule = RULES[name]
    with without(rule, assertions=False):
        for seed in (NOTICED_BY[name], *range(SEEDS)):
            try:
                World(seed, rule.agents).run()
            except (AssertionError, InvariantViolation):  # the world's checks, or the core's own
                return
    pytest.fail(f"{SEEDS} seeds pass without the rule: {name}")
