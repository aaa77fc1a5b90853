"""The cross-node rule: each of its conditions keeps a lawful difference from being one."""

from __future__ import annotations

import pytest

from replication.scrub.compare import Doubt, Range, Seen, doubt
from replication.scrub.compare_service import in_batches
from replication.scrub.copies import PAGES_MAX

LOW, MID, HIGH = 0x200_0000, 0x300_0000, 0x400_0000


@pytest.mark.parametrize(
    ("own", "peer", "own_redo", "peer_redo", "expected"),
    [
        (Seen(LOW, "a"), Seen(MID, "b"), HIGH, HIGH, Doubt.OWN_LATE),
        (Seen(MID, "a"), Seen(LOW, "b"), HIGH, HIGH, Doubt.PEER_LATE),
        (Seen(LOW, "a"), Seen(MID, "b"), LOW, HIGH, None),  # its own checkpoint has not come that far
        (Seen(MID, "a"), Seen(LOW, "b"), HIGH, LOW, None),
        (Seen(LOW, "a"), Seen(MID, "a"), HIGH, HIGH, None),  # side by side set hint bits
        (Seen(0, None), Seen(MID, "b"), HIGH, HIGH, Doubt.OWN_LATE),  # zeroed
        (Seen(1), Seen(MID), HIGH, HIGH, None),  # an index build leaves 0/1
        (Seen(MID), Seen(1), HIGH, HIGH, None),
        (Seen(None), Seen(MID), HIGH, HIGH, None),
        (Seen(MID, "a"), Seen(MID, "b"), HIGH, HIGH, Doubt.DIFFER),
        (Seen(MID, "a"), Seen(MID, None), HIGH, HIGH, None),
    ],
)
def test_two_copies(own: Seen, peer: Seen, own_redo: int, peer_redo: int, expected: Doubt | None) -> None:
    assert doubt(own, peer, own_redo, peer_redo) is expected


def test_questions_are_of_a_bounded_size_and_leave_nothing_out() -> None:
    ranges = [Range("base/5/1", 0, 3), Range("base/5/2", 0, 2 * PAGES_MAX + 5), Range("base/5/3", 131_072, 1)]
    batches = list(in_batches(ranges))
    assert all(sum(one.count for one in batch) <= PAGES_MAX for batch in batches)
    pages = [
        (one.path, block) for batch in batches for one in batch for block in range(one.first, one.first + one.count)
    ]
    assert pages == [(one.path, block) for one in ranges for block in range(one.first, one.first + one.count)]
