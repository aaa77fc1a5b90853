"""pg_basebackup's progress as a fraction."""

from __future__ import annotations

import pytest

from replication.rebuild import fraction


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"12345/49380 kB (25%), 0/1 tablespace", 0.25),
        (b"49380/49380 kB (100%), 1/1 tablespace", 1.0),
        (b"60000/49380 kB (100%), 0/1 tablespace", 1.0),
        (b"0/0 kB (100%), 0/1 tablespace", None),
        (b"waiting for checkpoint", None),
        (b"", None),
    ],
)
def test_a_line_of_progress_is_a_fraction(line: bytes, expected: float | None) -> None:
    assert fraction(line) == expected
