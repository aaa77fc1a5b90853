"""pg_xact: which of two nodes says what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from replication.page_size import PAGE_BYTES
from replication.scrub.status_protocol import XIDS_A_PAGE
from replication.scrub.transaction_status import blame, place_of_page, read_page, read_span, statuses

COMMITTED = b"\x55"  # four of them


def page(*changes: tuple[int, int]) -> bytes:
    made = bytearray(COMMITTED * PAGE_BYTES)
    for xid, status in changes:
        at, shift = divmod(xid, 4)
        made[at] = made[at] & ~(3 << 2 * shift) | status << 2 * shift
    return bytes(made)


@pytest.mark.parametrize(
    ("own", "peer", "is_own", "is_peer", "differing"),
    [
        (page((7, 0)), page(), True, False, 1),  # committed there, never ended here
        (page(), page((7, 3), (9, 0)), False, True, 2),
        (page((7, 2)), page(), False, False, 1),  # aborted or committed: nobody can tell
        (page((7, 0)), page((9, 0)), False, False, 2),
        (page((7, 0)), page((7, 3)), False, False, 0),  # a crash cut it off
        (page(), page(), False, False, 0),
    ],
)
def test_a_transaction_that_has_ended_has_an_end_on_both(
    own: bytes, peer: bytes, is_own: bool, is_peer: bool, differing: int
) -> None:
    found = blame(own, peer)
    assert (found.is_own, found.is_peer, found.differing) == (is_own, is_peer, differing)


def test_only_what_both_have_settled_is_read(tmp_path: Path) -> None:
    (tmp_path / "pg_xact").mkdir()
    (tmp_path / "pg_xact" / "0000").write_bytes(page() + page())
    found = statuses(read_page(tmp_path, 0, 100, 200))
    assert (found[:100].any(), found[100:200].all(), found[200:].any()) == (False, True, False)
    span = read_span(tmp_path, 1, 100, XIDS_A_PAGE + 50)
    assert (span.first_page, len(span.digests)) == (0, 2)
    assert read_span(tmp_path, 1, 100, 100).digests == ()
    assert read_page(tmp_path, 40, 0, 10**9) == bytes(PAGE_BYTES), "a file that is not there has no bits"
    assert place_of_page(40) == "pg_xact/0001"
