"""What was acknowledged and still stands, by slot, patient, practitioner and idempotency key: what a write must run into, and a
search show.

A table whose row or index entry has vanished lets two people in at once, and no constraint sees it. So each booking names to the
database what this server remembers to be in its way; the database then looks for just these (schema.sql, locum_expect). And what a
primary has lost is not changed, nor done again under its key, before it was put back from its receipt. Pure.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable

import msgspec

from server.scheduling import BLOCKING
from server.store import AppointmentRow

AT_ONCE_MAX = 50


class Standing(msgspec.Struct, frozen=True):
    """An appointment that was acknowledged in this version."""

    id: str
    version: int


class Expected:
    """Only the newest version of each is known, and only while it keeps others out."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._by_key: dict[str, dict[str, int]] = defaultdict(dict)
        self._answered: dict[str, str] = {}
        """The appointment that was the answer under an idempotency key."""
        self._keys_of: dict[str, set[str]] = defaultdict(set)

    def note(self, row: AppointmentRow, claimed: str | None = None) -> None:
        """A client was told of this row, or will be; under this idempotency key."""
        name = str(row.id)
        if claimed is not None:
            self._answered[claimed] = name
            self._keys_of[name].add(claimed)
        if name in self._known and self._known[name][0] > row.version:
            return
        self._drop(name)
        keys = _keys(row) if row.status in BLOCKING else ()
        self._known[name] = (row.version, keys)
        for key in keys:
            self._by_key[key][name] = row.version

    def forget(self, name: str) -> None:
        """It is certified, or a person was told that it is nowhere."""
        self._drop(name)
        for claimed in self._keys_of.pop(name, ()):
            self._answered.pop(claimed, None)

    def _drop(self, name: str) -> None:
        _, keys = self._known.pop(name, (0, ()))
        for key in keys:
            self._by_key[key].pop(name, None)
            if not self._by_key[key]:
                del self._by_key[key]

    def in_the_way(self, slot: uuid.UUID | None, patient: str | None) -> list[Standing]:
        """What a booking of this slot, for this patient, must meet if it overlaps."""
        return self._of([f"slot {slot.hex if slot is not None else None}", f"patient {patient}"])

    def by(
        self, claimed: str, slot: uuid.UUID | None, patient: str | None, appointment: uuid.UUID | None
    ) -> list[Standing]:
        """What a write under this key must meet: what is in its way, what it changes, and what was its answer before."""
        found = {one.id: one for one in (*self.in_the_way(slot, patient), *self.under(claimed))}
        if appointment is not None and str(appointment) in self._known:
            found[str(appointment)] = Standing(str(appointment), self._known[str(appointment)][0])
        return list(found.values())

    def under(self, claimed: str) -> list[Standing]:
        """The appointment that was answered under an idempotency key."""
        name = self._answered.get(claimed)
        return [] if name is None or name not in self._known else [Standing(name, self._known[name][0])]

    def of_actor(self, kind: str, name: str) -> list[Standing]:
        """What a search by this Patient or Practitioner must be able to show."""
        return self._of([f"{kind.lower()} {name}"])

    def _of(self, keys: Iterable[str]) -> list[Standing]:
        found: dict[str, int] = {}
        for key in keys:
            if key in self._by_key:
                found |= self._by_key[key]
        return [Standing(name, version) for name, version in list(found.items())[-AT_ONCE_MAX:]]


def _keys(row: AppointmentRow) -> tuple[str, ...]:
    keys = (f"slot {row.slot_id.hex}", f"practitioner {row.practitioner_id}")
    return keys if row.patient_id is None else (*keys, f"patient {row.patient_id}")
