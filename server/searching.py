"""The parameters of a FHIR search (R4 search.html), pure: which are known, dates with prefixes, paging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from urllib.parse import urlencode

import msgspec
from multidict import MultiMapping

from server.errors import Refusal
from server.identity import check_id
from server.requests import parse_moment

_PREFIXES = ("eq", "ge", "gt", "le", "lt", "sa", "eb")
_COUNT_DEFAULT = 100
COUNT_MAX = 1_000
_OFFSET_MAX = 1_000_000
_WINDOW = timedelta(days=31)
_ALWAYS = ("_format", "_count", "_offset", "_pretty", "_summary")

SEARCHES: dict[str, tuple[str, ...]] = {
    "Appointment": ("_id", "patient", "practitioner", "location", "actor", "status", "date"),
    "Slot": ("_id", "schedule", "start", "status"),
    "Practitioner": ("_id",),
    "Location": ("_id",),
    "Schedule": ("_id", "actor"),
}
"""Known parameters of each resource; an unknown one is refused, because ignoring it would answer too much."""


class Page(msgspec.Struct, frozen=True):
    """Which part of the matches is answered."""

    count: int
    offset: int

    def links(self, url: str, query: Mapping[str, str], total: int) -> dict[str, str]:
        """self and, while there are more, next. `query`: what the client asked, without paging."""
        found = {"self": _url(url, query, self)}
        if self.offset + self.count < total:
            found["next"] = _url(url, query, Page(self.count, self.offset + self.count))
        return found


def check_known(kind: str, query: MultiMapping[str]) -> None:
    """Raises Refusal 400 for a parameter that this server does not know."""
    known = (*SEARCHES[kind], *_ALWAYS)
    for name in query:
        if name not in known:
            raise Refusal(
                400, "not-supported", f"{kind} cannot be searched by {name[:40]!r}; known: {', '.join(known)}"
            )


def page(query: MultiMapping[str]) -> Page:
    """_count (at most 1000) and _offset. Raises Refusal 400."""
    return Page(
        min(COUNT_MAX, _number(query, "_count", _COUNT_DEFAULT, COUNT_MAX * 1000)),
        _number(query, "_offset", 0, _OFFSET_MAX),
    )


def reference(query: MultiMapping[str], name: str, kind: str) -> str | None:
    """The id that a reference parameter names, as `Patient/ada` or `ada`. Raises Refusal 400."""
    values = query.getall(name, [])
    if not values:
        return None
    if len(values) > 1 or "," in values[0]:
        raise Refusal(400, "not-supported", f"{name} may be given once, with one value")
    return check_id(values[0].removeprefix(f"{kind}/"))


def tokens(query: MultiMapping[str], name: str) -> list[str]:
    """The codes of a token parameter: comma means or."""
    return [item for value in query.getall(name, []) for item in value.split(",") if item]


def bounds(values: Sequence[str]) -> tuple[datetime | None, datetime | None]:
    """[from, before) of a date parameter with its prefixes, given any number of times. Raises Refusal 400."""
    low: datetime | None = None
    high: datetime | None = None
    for value in values:
        prefix = value[:2] if value[:2] in _PREFIXES else "eq"
        text = value[2:] if value[:2] in _PREFIXES else value
        # In a query an unescaped + is a space.
        begin = parse_moment(text.replace(" ", "+"))
        end = begin + (timedelta(days=1) if len(text) == len("2026-01-01") else timedelta(seconds=1))
        after = {"eq": begin, "ge": begin, "gt": end, "sa": end}.get(prefix)
        before = {"eq": end, "le": end, "lt": begin, "eb": begin}.get(prefix)
        low = max(low or after, after) if after is not None else low
        high = min(high or before, before) if before is not None else high
    return low, high


def window(low: datetime | None, high: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    """The period to search: 31 days from `low`, or up to `high`, or from now, where one or both were not given."""
    if low is None:
        low = now if high is None else high - _WINDOW
    return low, high if high is not None else low + _WINDOW


def _number(query: MultiMapping[str], name: str, default: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or int(text) > most:
        raise Refusal(400, "value", f"{name} must be a number of at most {most}")
    return int(text)


def _url(url: str, query: Mapping[str, str], part: Page) -> str:
    return f"{url}?{urlencode([*query.items(), ('_count', str(part.count)), ('_offset', str(part.offset))])}"
