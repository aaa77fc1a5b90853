"""Numbers with a meaning: LSNs, terms, revisions. LSNs are plain integers inside Locum and `X/Y` text only outside."""

from __future__ import annotations

from typing import NewType

Lsn = NewType("Lsn", int)
NodeName = NewType("NodeName", str)
Term = NewType("Term", int)
Revision = NewType("Revision", int)

WAL_SEGMENT_MB = 1
WAL_SEGMENT_BYTES = WAL_SEGMENT_MB * 1024 * 1024
"""A promotion copies the segment in which the old timeline ends, whole and with an fsync (xlog.c, XLogInitNewTimeline):
with PostgreSQL's default of 16 MB that is half the time of a promotion, and 1 MB costs no throughput."""


def parse_lsn(text: str) -> Lsn:
    """`'0/5000060'` as an integer. Raises ValueError on anything else (src/backend/utils/adt/pg_lsn.c)."""
    high, slash, low = text.partition("/")
    if not slash or not 0 < len(high) <= 8 or not 0 < len(low) <= 8:
        raise ValueError(f"not an LSN: {text!r}; expected two hexadecimal numbers such as 0/5000060")
    return Lsn((int(high, 16) << 32) | int(low, 16))


def format_lsn(lsn: int) -> str:
    """PostgreSQL's own spelling of an LSN: `0/5000060`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
