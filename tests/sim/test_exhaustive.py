"""The exhaustive mode in the test run: a small bound whole, and for each rule the shortest trace that needs it.

The bound of one write, two faults and one lost tail is `python -m tests.sim --exhaustive` (docs/ARCHITECTURE.md says what it
found). The traces were found by the same search, breadth first, with the rule taken out.
"""

from __future__ import annotations

import pytest

from tests.sim.cell import Bounds
from tests.sim.explore import Search
from tests.sim.rules import RULES, without

ONE = Bounds(writes=1, faults=1, lost_tails=0)

Trace = tuple[tuple[int, str], ...]

TRACES: dict[str, Trace] = {
    "1: every promotion is a new term": ((0, "kill a"),),
    "2: not eligible is journalled before a relax": ((0, "write"), (0, "hang b for long")),
    "2: a standby is eligible only after its growth was proved": ((0, "write"), (0, "cut link for long")),
    "3: only an eligible standby is promoted": ((0, "write"), (0, "hang b for long"), (70, "lose tail of a")),
    "3: a standby that was restarted is not promoted unverified": (
        (0, "controller dies"),
        (0, "write"),
        (2, "lose tail of b"),
        (13, "cut a from all"),
    ),
    "5: a former primary is rebuilt": ((0, "kill a"), (15, "write")),
    "5: a rebuilt node needs its certificate": ((0, "kill a"), (14, "write")),
    "a lone primary opens only when nothing can be missing": ((0, "kill a"), (3, "lose tail of b")),
    "only an eligible peer is compared and promoted on wal_lost": (
        (0, "write"),
        (0, "hang b for long"),
        (23, "lose tail of a"),
    ),
    "an eligible peer is compared before a start": ((0, "write"), (0, "hang b for long"), (1, "lose tail of a")),
    "a candidate that lost its WAL while it was promoted stays closed": (
        (0, "kill both"),
        (26, "kill a"),
        (27, "lose tail of b"),
    ),
    "a candidate that was restarted while it was promoted shows its receipts": (
        (0, "write"),
        (0, "operator fails over"),
        (2, "lose tail of b"),
    ),
    "agents refuse revisions that are not above the highest": (
        (0, "write"),
        (1, "lose tail of a"),
        (2, "double Promote to b"),
    ),
    "agents refuse what is late, or was decided for another start": (
        (0, "write"),
        (1, "lose tail of a"),
        (2, "delay Promote to b"),
        (43, "delay Promote to b"),
    ),
    "agents prove the history before a start as standby": ((0, "write"), (2, "kill both"), (5, "lose tail of a")),
    "agents prove the history by its bytes, not by its length": ((0, "write"), (2, "kill both"), (5, "lose tail of a")),
    "agents commit a synchronous probe before they open": ((0, "kill both"), (14, "lose tail of a")),
    "agents count a lease from their own answer": ((0, "cut a from all"), (0, "delay renewal")),
    "agents fence a primary whose lease has run out": ((0, "cut a from all"),),
    "servers answer reads only while a commit of theirs came back": (
        (0, "hang agent of a"),
        (0, "cut reader off"),
        (17, "write"),
    ),
    "a growth counts for its own walsender and starts": (
        (0, "write"),
        (0, "hang b for long"),
        (70, "lose tail of a"),
    ),
    "agents compare WAL truly": ((0, "kill both"), (15, "lose tail of a")),
}
"""(step, choice) each; a step is 50 ms."""

NEVER_STARTS = {"1: every stored state has a revision of its own", "an action is settled only when it can run no more"}
"""Without these the model cluster does not even become healthy."""

NOT_IN_A_CELL = {"4: damage is neither promoted nor copied"}
"""No page of the exhaustive mode is corrupt; the random walks find it (test_seeds.py)."""


def test_no_single_fault_loses_anything_and_every_state_heals() -> None:
    found = Search(ONE, wide=True, stop_at_first=False).run()
    assert found.violations == ()
    assert found.states > 1_000
    assert found.healthy > 100


@pytest.mark.parametrize("name", TRACES)
def test_without_the_rule_its_shortest_trace_breaks_something(name: str) -> None:
    rule = RULES[name]
    with without(rule, assertions=False):
        violation = Search(Bounds(1, 2, 1), broken=rule.agents).outcome(TRACES[name])
    assert violation is not None, "nothing went wrong"
    print(violation.sentence)


@pytest.mark.parametrize("name", NEVER_STARTS)
def test_without_these_the_cluster_never_becomes_healthy(name: str) -> None:
    rule = RULES[name]
    with without(rule, assertions=False), pytest.raises(AssertionError):
        Search(ONE, broken=rule.agents).run()


def test_every_rule_has_its_trace() -> None:
    assert set(TRACES) | NEVER_STARTS | NOT_IN_A_CELL == set(RULES)
