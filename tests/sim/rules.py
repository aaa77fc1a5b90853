"""Rules that can be taken out, one at a time: the simulator must notice (else it proves nothing)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

from failover.core import (
    alarms,
    candidate,
    decide,
    failing_over,
    incident,
    invariants,
    lone_rule,
    node_faults,
    opening,
    settle,
    standing_by,
    starting,
    switching,
)
from failover.core.model import State
from replication.actions import Grow
from replication.model import NodeReport
from tests.sim import leases


def always(*_args: object, **_kwargs: object) -> bool:
    return True


def never(*_args: object, **_kwargs: object) -> bool:
    return False


def same_state(state: State, *_args: object) -> State:
    return state


def same_term(state: State) -> int:
    return state.term


def same_revision(state: State) -> int:
    return state.revision


def any_growth(_pending: object, op: Grow, primary: NodeReport, _standby: object) -> bool:
    return primary.growth is not None and primary.growth.proved


def nothing(*_args: object, **_kwargs: object) -> None:
    return None


class Rule(NamedTuple):
    """`patches`: (module, function, what takes its place); `agents`: rules of the agents that are left out; `seeds`:
    some that notice, tried first."""

    patches: tuple[tuple[ModuleType, str, Any], ...] = ()
    agents: frozenset[str] = frozenset()
    seeds: tuple[int, ...] = ()


def everywhere(name: str, replacement: Any) -> tuple[tuple[ModuleType, str, Any], ...]:
    """Patches of one function in every module that has it by this name."""
    modules = (
        alarms,
        candidate,
        decide,
        failing_over,
        incident,
        invariants,
        lone_rule,
        node_faults,
        opening,
        settle,
        standing_by,
        starting,
        switching,
    )
    return tuple((module, name, replacement) for module in modules if hasattr(module, name))


ASSERTIONS = ((decide, "check_plan", nothing), (decide, "check_step", nothing))
"""The core's own assertions: taken out too, so that the world has to notice by itself."""

_ANY_LONE_START = (
    *everywhere("was_stopped_whole", always),
    *everywhere("why_end_is_short", nothing),
    *everywhere("why_receipts_forbid", nothing),
)

RULES: dict[str, Rule] = {
    "1: every stored state has a revision of its own": Rule(everywhere("next_revision", same_revision)),
    "1: every promotion is a new term": Rule(everywhere("next_term", same_term)),
    "2: not eligible is journalled before a relax": Rule(everywhere("disqualified", same_state)),
    "2: a standby is eligible only after its growth was proved": Rule(everywhere("growth_is_proved", always)),
    "3: only an eligible standby is promoted": Rule(((candidate, "is_eligible", always), (candidate, "is_verified", always))),
    "3: a standby that was restarted is not promoted unverified": Rule(everywhere("is_verified", always)),
    "4: damage is neither promoted nor copied": Rule(everywhere("carries_integrity_fault", never)),
    "5: a former primary is rebuilt": Rule(everywhere("must_former_be_rebuilt", never)),
    "5: a rebuilt node needs its certificate": Rule(everywhere("is_certificate_due", never)),
    "a lone primary opens only when nothing can be missing": Rule(_ANY_LONE_START),
    "only an eligible peer is compared and promoted on wal_lost": Rule(((starting, "is_eligible", always),)),
    "an eligible peer is compared before a start": Rule(((starting, "is_eligible", never), (opening, "is_eligible", never))),
    "a candidate that lost its WAL while it was promoted stays closed": Rule(everywhere("has_lost_wal", never)),
    "a candidate that was restarted while it was promoted shows its receipts": Rule(everywhere("must_show_receipts", never)),
    "an action is settled only when it can run no more": Rule(everywhere("can_never_be_accepted", always)),
    "agents refuse revisions that are not above the highest": Rule(agents=frozenset({"revision"})),
    "agents refuse what is late, or was decided for another start": Rule(agents=frozenset({"time"})),
    "agents prove the history before a start as standby": Rule(agents=frozenset({"history"})),
    "agents prove the history by its bytes, not by its length": Rule(agents=frozenset({"history_content"})),
    "agents commit a synchronous probe before they open": Rule(agents=frozenset({"probe"})),
    "agents count a lease from their own answer": Rule(agents=frozenset({"lease"})),
    "agents fence a primary whose lease has run out": Rule(((leases, "must_fence", nothing),)),
    "servers answer reads only while a commit of theirs came back": Rule(agents=frozenset({"reads"})),
    "a growth counts for its own walsender and starts": Rule(((settle, "growth_is_proved", any_growth),)),
    "agents compare WAL truly": Rule(agents=frozenset({"compare"})),
}  # fmt: skip


@contextmanager
def without(rule: Rule, *, assertions: bool) -> Iterator[None]:
    """The core as it would be without the rule, with or without its assertions."""
    saved: list[Any] = []
    try:
        for module, name, replacement in (*rule.patches, *(() if assertions else ASSERTIONS)):
            patch = mock.patch.object(module, name, replacement)
            patch.start()
            saved.append(patch)
        yield
    finally:
        for patch in reversed(saved):
            patch.stop()
