"""The parameters of a FHIR search (R4 search.html), pure: which are known, dates with prefixes, paging."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Sequence
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
_CURSOR_CHARS_MAX = 200
WINDOW = timedelta(days=31)
_ALWAYS = ("_format", "_count", "_cursor", "_pretty", "_summary")

SEARCHES: dict[str, tuple[str, ...]] = {
    "Appointment": (
        "_id",
        "patient",
        "practitioner",
        "location",
        "device",
        "actor",
        "slot",
        "status",
        "date",
        "_sort",
        "_include",
    ),
    "Slot": ("_id", "schedule", "start", "status", "service-type", "specialty", "_sort", "_include"),
    "Practitioner": ("_id",),
    "PractitionerRole": ("_id", "practitioner", "_include"),
    "HealthcareService": ("_id",),
    "Location": ("_id",),
    "Device": ("_id",),
    "Organization": ("_id",),
    "Schedule": ("_id", "actor", "_include"),
    "AuditEvent": ("patient", "entity", "agent", "action", "date", "_sort"),
}
"""Known parameters of each resource; an unknown one is refused, because ignoring it would answer too much."""

INCLUDES: dict[str, dict[str, str]] = {
    "Appointment": {
        "Appointment:patient": "Patient",
        "Appointment:practitioner": "Practitioner",
        "Appointment:location": "Location",
        "Appointment:device": "Device",
        "Appointment:actor": "",
    },
    "Slot": {"Slot:schedule": "Schedule"},
    "PractitionerRole": {
        "PractitionerRole:practitioner": "Practitioner",
        "PractitionerRole:location": "Location",
        "PractitionerRole:service": "HealthcareService",
    },
    "Schedule": {"Schedule:actor": ""},
}
"""What may be included, and of which kind it is; nothing: of any."""


class Key(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ended: of the last row in it."""

    start: datetime
    id: uuid.UUID


class Page(msgspec.Struct, frozen=True):
    """Which part of the matches is answered: `count`, after the row `after`."""

    count: int
    after: Key | None = None

    def links(self, url: str, query: MultiMapping[str], last: Key | None) -> dict[str, str]:
        """self and, after a page that ended with `last` and was not the end, next. `query`: what the client asked."""
        asked = [(name, value) for name, value in query.items() if name not in ("_count", "_cursor")]
        found = {"self": _url(url, asked, self)}
        if last is not None:
            found["next"] = _url(url, asked, Page(self.count, last))
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
    """_count (at most 1000), and _cursor as a link of ours gave it. Raises Refusal 400."""
    return Page(
        min(COUNT_MAX, _number(query, "_count", _COUNT_DEFAULT, COUNT_MAX * 1000)), _cursor(query.get("_cursor"))
    )


def _cursor(text: str | None) -> Key | None:
    if text is None:
        return None
    try:
        if len(text) <= _CURSOR_CHARS_MAX:
            return msgspec.json.decode(base64.urlsafe_b64decode(text.encode("ascii")), type=Key)
    except (ValueError, msgspec.DecodeError):
        pass
    raise Refusal(400, "value", "_cursor is only for links that this server has given")


def descending(query: MultiMapping[str], name: str) -> bool:
    """_sort by this one parameter, forwards or back. Raises Refusal 400."""
    text = query.get("_sort", name)
    if text not in (name, f"-{name}"):
        raise Refusal(400, "not-supported", f"_sort may be {name} or -{name}")
    return text.startswith("-")


def includes(kind: str, query: MultiMapping[str]) -> list[str]:
    """The kinds that are asked for by _include; an empty word is all. Raises Refusal 400."""
    found = []
    for value in query.getall("_include", []):
        if value not in INCLUDES.get(kind, {}):
            known = ", ".join(INCLUDES.get(kind, {})) or "nothing"
            raise Refusal(400, "not-supported", f"{kind} can include {known}")
        found.append(INCLUDES[kind][value])
    return found


def references(query: MultiMapping[str], name: str, kind: str) -> list[str]:
    """The ids that a reference parameter names; comma means or. Raises Refusal 400."""
    values = query.getall(name, [])
    if len(values) > 1:
        raise Refusal(400, "not-supported", f"{name} may be given once; a comma means or")
    return [check_id(item.removeprefix(f"{kind}/")) for item in values[0].split(",")] if values else []


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
        low = now if high is None else high - WINDOW
    return low, high if high is not None else low + WINDOW


def _number(query: MultiMapping[str], name: str, default: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or int(text) > most:
        raise Refusal(400, "value", f"{name} must be a number of at most {most}")
    return int(text)


def _url(url: str, asked: Sequence[tuple[str, str]], part: Page) -> str:
    words = [*asked, ("_count", str(part.count))]
    if part.after is not None:
        words.append(("_cursor", base64.urlsafe_b64encode(msgspec.json.encode(part.after)).decode()))
    return f"{url}?{urlencode(words)}"
