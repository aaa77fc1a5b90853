"""What WAL says must be on a heap page, tuple by tuple: who inserted each with which bytes, and who deleted, updated or locked it.
Pure.

Two nodes whose pages bear one LSN and differ cannot both be right, and no LSN tells which. But a record names its transaction and
the place of the tuple: a page on which that transaction left no trace has lost a write (src/backend/access/rmgrdesc/heapdesc.c).
And the bytes of a row that was inserted, or that an image of its page holds, are in WAL: nothing changes them in place but what
WAL names (src/include/access/heapam_xlog.h, xl_heap_header and xl_multi_insert_tuple).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import NamedTuple

_POINTERS_AT, _POINTER_BYTES, _NORMAL, _DEAD = 24, 4, 1, 3
_HEADER_BYTES = 23  # src/include/access/htup_details.h, SizeofHeapTupleHeader
_LOGGED_HEADER_BYTES, _LOGGED_MULTI = 5, struct.Struct("<HHHB")
_SUPER_DELETE = 0x08  # src/include/access/heapam_xlog.h, XLH_DELETE_IS_SUPER
_FIELD = re.compile(r"(\w+): (0x[0-9A-F]+|\d+)", re.I)
_LISTS = re.compile(r"(?:redirected|dead|unused): \[([^\]]*)\]")
_OFFSETS = re.compile(r"offsets: \[([\d, ]*)\]")


class HeapRecord(NamedTuple):
    """One record's word on one heap block. `kind`: `Heap INSERT`. `block_id`: which of the record's blocks it is, `is_alone`: the
    record names no other. `image`: the page, when it carries it whole; `data`: what it carries of the block otherwise."""

    kind: str
    description: str
    xid: int
    block_id: int
    is_alone: bool
    image: bytes | None = None
    data: bytes | None = None
    end_lsn: int = 0


class Places(NamedTuple):
    """What a record does to the places of a heap page, as bits: put a tuple there, free it. `is_reset`: the page is made anew."""

    taken: int = 0
    freed: int = 0
    is_reset: bool = False


_KEEPS = (
    "Heap DELETE",
    "Heap LOCK",
    "Heap2 LOCK_UPDATED",
    "Heap2 VISIBLE",
    "Heap HEAP_CONFIRM",
    "Heap INPLACE",
    "XLOG FPI_FOR_HINT",
)
_LEAVES_ROWS = ("XLOG FPI_FOR_HINT", "XLOG FPI", "Heap2 VISIBLE", "Heap HEAP_CONFIRM")
_KINDS = re.compile(r"Heap (?:INSERT|UPDATE|HOT_UPDATE)(?:\+INIT)?$|Heap2 (?:MULTI_INSERT|PRUNE|VACUUM)")


def places_of(kind: str, description: str, block_id: int) -> Places | None:
    """What a record of this kind says of the places of its heap block; None when that is not known, or no heap."""
    if kind.startswith(_KEEPS):
        fields = _fields(description)
        is_taken_back = kind == "Heap DELETE" and fields.get("flags", 0) & _SUPER_DELETE
        return Places(freed=1 << fields.get("off", 0) if is_taken_back else 0)
    if _KINDS.match(kind) is None:
        return None
    is_init = kind.endswith("+INIT")
    fields = _fields(description)
    if kind.startswith("Heap INSERT") and "off" in fields:
        return Places(taken=1 << fields["off"], is_reset=is_init)
    if kind.startswith(("Heap UPDATE", "Heap HOT_UPDATE")) and "new_off" in fields:
        is_new = block_id == 0
        return Places(taken=1 << fields["new_off"] if is_new else 0, is_reset=is_init and is_new)
    if kind.startswith("Heap2 MULTI_INSERT"):
        listed = _OFFSETS.search(description)
        return Places(taken=_bits(listed[1])) if listed is not None and not is_init else None
    if kind.startswith(("Heap2 PRUNE", "Heap2 VACUUM")):
        lists = " ".join(found[1] for found in _LISTS.finditer(description))
        return Places(freed=_bits(lists))
    return None


def _bits(numbers: str) -> int:
    bits = 0
    for number in re.findall(r"\d+", numbers):
        bits |= 1 << int(number)
    return bits


def _fields(description: str) -> dict[str, int]:
    return {name: int(value, 0) for name, value in _FIELD.findall(description)}


class Trace(NamedTuple):
    """What must be found at one place of a page; None: WAL does not say. `body`: the row behind its fixed header."""

    xmin: int | None = None
    xmax: int | None = None
    body: bytes | None = None


def traces(records: Iterable[HeapRecord]) -> dict[int, Trace]:
    """What must be on the page after these records, in the order of WAL. An image of the page, and whatever is not understood,
    end what was known before. Freezing leaves a row and who inserted it, and may take away who changed it (heapam.c,
    heap_execute_freeze_tuple)."""
    known: dict[int, Trace] = {}
    for record in records:
        if record.image is not None:
            known = on_page(record.image)
        elif record.kind.endswith("+INIT") and record.block_id == 0:
            known = {}  # the page is made anew, as after its table was cut off and grew again
        kind = record.kind.removesuffix("+INIT")
        fields = _fields(record.description)
        if kind == "Heap INSERT" and "off" in fields:
            _insert(known, record, {fields["off"]: _body_of_one(record.data)})
        elif kind in ("Heap UPDATE", "Heap HOT_UPDATE") and {"old_off", "new_off"} <= fields.keys():
            _update(known, record, fields)
        elif kind in ("Heap DELETE", "Heap LOCK") and {"xmax", "off"} <= fields.keys():
            gone = kind == "Heap DELETE" and fields.get("flags", 0) & _SUPER_DELETE
            before = known.pop(fields["off"], Trace())
            if not gone:
                known[fields["off"]] = before._replace(xmax=fields["xmax"])
        elif kind == "Heap2 MULTI_INSERT" and (listed := _OFFSETS.search(record.description)) is not None:
            numbers = [int(number) for number in listed[1].split(",") if number.strip()]
            _insert(known, record, dict(zip(numbers, _bodies_of_many(record.data, len(numbers)), strict=True)))
        elif kind.startswith(("Heap2 PRUNE", "Heap2 FREEZE_PAGE")):
            freed = _pruned(record.description)
            known = {number: trace for number, trace in known.items() if number not in freed}
            if fields.get("nplans"):
                known = {number: trace._replace(xmax=None) for number, trace in known.items()}
        elif kind not in _LEAVES_ROWS:
            known.clear()
    return known


def _insert(known: dict[int, Trace], record: HeapRecord, bodies: dict[int, bytes | None]) -> None:
    """The image of a page that a record carries was taken after the record's own change (xloginsert.c)."""
    for number, body in bodies.items():
        before = known.get(number, Trace()) if record.image is not None else Trace()
        known[number] = Trace(xmin=record.xid, body=before.body if record.image is not None else body)


def _body_of_one(data: bytes | None) -> bytes | None:
    return None if data is None or len(data) < _LOGGED_HEADER_BYTES else data[_LOGGED_HEADER_BYTES:]


def _bodies_of_many(data: bytes | None, count: int) -> list[bytes | None]:
    """None for all when the data is not what it should be."""
    found: list[bytes | None] = []
    at = 0
    while data is not None and len(found) < count and at + _LOGGED_MULTI.size <= len(data):
        length, *_ = _LOGGED_MULTI.unpack_from(data, at)
        start = at + _LOGGED_MULTI.size
        found.append(data[start : start + length])
        at = start + length + (start + length) % 2  # SHORTALIGN
    return found if len(found) == count else [None] * count


def proved_before(records: Iterable[HeapRecord], lsn: int) -> dict[int, Trace]:
    """What must be on the page after these records, as far as records that end at `lsn` or before say so already: those after it
    were made upon the very page that is in doubt, and an image among them is of it."""
    known = list(records)
    earlier = traces(record for record in known if record.end_lsn <= lsn)
    later = traces(record if record.end_lsn <= lsn else _without_image(record) for record in known)
    return {
        number: trace for number, trace in later.items() if number in earlier and earlier[number].xmin == trace.xmin
    }


def _without_image(record: HeapRecord) -> HeapRecord:
    """What the record says by itself: nothing, where it is an image and no more (log_newpage in xloginsert.c)."""
    is_new_page = record.image is not None and record.kind == "XLOG FPI"
    return record._replace(image=None, kind="a new page" if is_new_page else record.kind)


def conflicts(records: Iterable[HeapRecord]) -> list[str]:
    """Records that put a tuple where WAL has put another and never freed the place, a sentence each: the page that they were
    made upon had lost that one."""
    occupied, said = 0, []
    for record in records:
        places = places_of(record.kind, record.description, record.block_id)
        if record.image is not None:
            occupied = sum(1 << number for number in on_page(record.image))
        elif places is None:
            occupied = 0
        else:
            twice = places.taken & occupied
            if twice:
                said.append(
                    f"transaction {record.xid} put a tuple at place {twice.bit_length() - 1}, where WAL has one"
                )
            occupied = (0 if places.is_reset else occupied) & ~places.freed | places.taken
    return said


def _pruned(description: str) -> set[int]:
    """Places whose tuples pruning took away, or moved; without a plan to freeze it leaves the others as they were."""
    lists = " ".join(found[1] for found in _LISTS.finditer(description))
    return {int(number) for number in re.findall(r"\d+", lists)}


def on_page(page: bytes) -> dict[int, Trace]:
    """Who inserted each tuple of a page, and its bytes."""
    count = max(0, (struct.unpack_from("<H", page, 12)[0] - _POINTERS_AT) // _POINTER_BYTES)
    found = ((number, _tuple(page, number)) for number in range(1, count + 1))
    return {number: Trace(xmin=seen.xmin, body=seen.body) for number, seen in found if seen is not None}


def _update(known: dict[int, Trace], record: HeapRecord, fields: dict[str, int]) -> None:
    """Block 0 has the new tuple, block 1 the old one; a record with one block has both there."""
    is_new, is_old = record.block_id == 0, record.block_id == 1 or record.is_alone
    if is_old:
        before = known.get(fields["old_off"], Trace())
        known[fields["old_off"]] = before._replace(xmax=fields.get("old_xmax"))
    if is_new:
        imaged = known.get(fields["new_off"], Trace()) if record.image is not None else Trace()
        known[fields["new_off"]] = Trace(xmin=record.xid, body=imaged.body)


def without_trace(page: bytes, expected: dict[int, Trace]) -> list[str]:
    """Everything that must be on the page and is not, a sentence each."""
    said = []
    for number, trace in sorted(expected.items()):
        found = _tuple(page, number)
        if found is None:
            said.append(f"no tuple {number}, which transaction {trace.xmin or trace.xmax} wrote")
        elif trace.xmin is not None and found.xmin != trace.xmin:
            said.append(f"tuple {number} is of transaction {found.xmin}, not {trace.xmin}")
        elif trace.xmax is not None and found.xmax != trace.xmax:
            said.append(f"tuple {number} was changed by transaction {trace.xmax}, and does not show it")
    return said


def altered(page: bytes, expected: dict[int, Trace]) -> list[str]:
    """Rows of the right transactions whose bytes are not those that WAL has, a sentence each."""
    said = []
    for number, trace in sorted(expected.items()):
        found = _tuple(page, number)
        if found is None or trace.body is None or found.xmin != trace.xmin or found.body == trace.body:
            continue
        pairs = enumerate(zip(found.body, trace.body, strict=False))
        at = next((at for at, (one, other) in pairs if one != other), min(len(found.body), len(trace.body)))
        said.append(
            f"tuple {number} differs from what transaction {trace.xmin} wrote, from byte {at + _HEADER_BYTES} on"
        )
    return said


class _Tuple(NamedTuple):
    xmin: int
    xmax: int
    body: bytes


def _tuple(page: bytes, number: int) -> _Tuple | None:
    """What lies at one place of a page; None where there is none. An index's entry that is marked dead is there: the mark is a hint
    that no WAL names, while a heap's dead place has no storage (src/include/storage/itemid.h)."""
    lower = struct.unpack_from("<H", page, 12)[0]
    at = _POINTERS_AT + (number - 1) * _POINTER_BYTES
    if number < 1 or at + _POINTER_BYTES > lower:
        return None
    (pointer,) = struct.unpack_from("<I", page, at)
    start, length = pointer & 0x7FFF, pointer >> 17
    flag = (pointer >> 15) & 3
    if flag not in (_NORMAL, _DEAD) or not length or start + 8 > len(page):
        return None
    xmin, xmax = struct.unpack_from("<II", page, start)
    return _Tuple(int(xmin), int(xmax), page[start + _HEADER_BYTES : start + length])
