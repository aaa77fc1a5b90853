"""The wall clock, as this agent sees it: for people to read in reports and evidence. Nothing is decided by it.

It can be set wrong on purpose, to show just that: by the setting `wall_clock_offset_ms`, and live by POST /v1/clock.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

OFFSET_MS_MAX = 10 * 365 * 86_400_000
_offset = timedelta()


def set_offset(offset_ms: int) -> None:
    """From now on it is wrong by so much; of the whole process. Raises ValueError beyond ten years."""
    global _offset  # noqa: PLW0603  a process has one wall clock
    if abs(offset_ms) > OFFSET_MS_MAX:
        raise ValueError(f"wall_clock_offset_ms is at most {OFFSET_MS_MAX} either way")
    _offset = timedelta(milliseconds=offset_ms)


def wall_now() -> str:
    """ISO 8601 with its offset, in UTC."""
    return (datetime.now(UTC) + _offset).isoformat()
