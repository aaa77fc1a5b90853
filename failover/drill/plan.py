"""What the clients of a drill do, and when: decided by the seed alone. Pure."""

from __future__ import annotations

import string
import uuid
from random import Random
from typing import NamedTuple

from failover.drill.history import Do

_WEIGHTS = {Do.BOOK: 56, Do.READ: 18, Do.CANCEL: 9, Do.MOVE: 7, Do.HOLD: 7, Do.FIND: 3}
_AGAIN, _HANG_UP, _RIVAL, _LONG = 0.05, 0.05, 0.1, 0.05
_OPERATIONS = 100_000
_COMMENT_CHARS = 1_900
"""With it a row is longer than a quarter of a page, so that PostgreSQL keeps the comment apart (TOAST)."""


class Planned(NamedTuple):
    """One operation of the plan. `choice` chooses among what there is; `again`: the same request is sent once more after its
    answer; `hangs_up`: the client drops its first connection at once, and sends the same request again; `rival`: the key of
    another client who wants the same slot at the same time; `comment`: a long one, or none."""

    do: Do
    choice: int
    key: str
    again: bool
    hangs_up: bool
    rival: str | None
    comment: str | None


def for_run(planned: Planned, run: str) -> Planned:
    """The same with keys of this run: a deployment that was drilled before would answer an old key with its old answer."""
    if not run:
        return planned
    rival = None if planned.rival is None else f"{planned.rival}-{run}"
    return planned._replace(key=f"{planned.key}-{run}", rival=rival)


def plan(seed: int, operations: int = _OPERATIONS) -> list[Planned]:
    """The first operations of a seed."""
    random = Random(seed)  # noqa: S311  to be repeatable, not secret
    return [_one(random) for _ in range(operations)]


def _one(random: Random) -> Planned:
    (do,) = random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
    choice, key, rival = random.randrange(1 << 30), _key(random), _key(random)
    again, hangs_up, has_rival, long = (random.random() < share for share in (_AGAIN, _HANG_UP, _RIVAL, _LONG))
    letters = "".join(random.choices(string.ascii_lowercase, k=_COMMENT_CHARS)) if long else None
    return Planned(do, choice, key, again, hangs_up, rival if has_rival else None, letters)


def _key(random: Random) -> str:
    return str(uuid.UUID(int=random.getrandbits(128), version=4))
