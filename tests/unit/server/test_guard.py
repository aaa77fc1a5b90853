"""What a receipt says against a row: a pure question."""

from __future__ import annotations

import pytest

from replication.model import Receipt
from server.guard import why_wrong

RECEIPT = Receipt("id", 3, 1, 100, "abc")


@pytest.mark.parametrize(
    ("version", "digest", "why"),
    [
        (None, None, "missing"),
        (2, "abc", "older"),
        (3, "abc", None),
        (3, "xyz", "altered"),
        (4, "xyz", None),  # changed since, by another server or the end of a hold
    ],
)
def test_a_row_is_borne_out_or_missing_or_older_or_altered(
    version: int | None, digest: str | None, why: str | None
) -> None:
    assert why_wrong(RECEIPT, version, digest) == why
