"""What WAL says must be on a heap page."""

from __future__ import annotations

import struct

import pytest

from replication.page_size import PAGE_BYTES
from replication.scrub.tuples import (
    HeapRecord,
    Places,
    Trace,
    altered,
    conflicts,
    places_of,
    proved_before,
    traces,
    without_trace,
)

EMPTY = bytes(32 - 23)
"""The rows of `page` behind their headers."""


def record(
    kind: str,
    description: str,
    xid: int = 700,
    *,
    block_id: int = 0,
    alone: bool = True,
    image: bytes | None = None,
    data: bytes | None = None,
) -> HeapRecord:
    return HeapRecord(f"Heap {kind}", description, xid, block_id, alone, image, data)


def page(*tuples: tuple[int, int], body: bytes = EMPTY) -> bytes:
    made = bytearray(PAGE_BYTES)
    struct.pack_into("<H", made, 12, 24 + 4 * len(tuples))
    for number, (xmin, xmax) in enumerate(tuples):
        at = PAGE_BYTES - 40 * (number + 1)
        struct.pack_into("<I", made, 24 + 4 * number, at | 1 << 15 | 32 << 17)
        struct.pack_into("<II", made, at, xmin, xmax)
        made[at + 23 : at + 32] = body
    return bytes(made)


INSERT = record("INSERT", "off: 1, flags: 0x08", 700)
DELETE = record("DELETE", "xmax: 705, off: 1, infobits: [KEYS_UPDATED], flags: 0x00", 705)
HOT = record("HOT_UPDATE", "old_xmax: 706, old_off: 1, old_infobits: [], flags: 0x20, new_xmax: 0, new_off: 2", 706)


def test_a_tuple_shows_who_wrote_it_and_who_changed_it_last() -> None:
    assert traces([INSERT, DELETE]) == {1: Trace(700, 705)}
    assert traces([INSERT, HOT]) == {1: Trace(700, 706), 2: Trace(706)}
    assert without_trace(page((700, 706), (706, 0)), traces([INSERT, HOT])) == []
    assert without_trace(page((700, 0), (706, 0)), traces([INSERT, HOT])) == [
        "tuple 1 was changed by transaction 706, and does not show it"
    ]
    assert without_trace(page((700, 706)), traces([INSERT, HOT])) == ["no tuple 2, which transaction 706 wrote"]
    assert without_trace(page((699, 0)), traces([INSERT])) == ["tuple 1 is of transaction 699, not 700"]


def test_an_index_entry_that_was_marked_dead_since_its_image_is_there_and_a_dead_place_of_a_heap_is_not() -> None:
    image = page((700, 5), (701, 6))
    killed, gone = bytearray(image), bytearray(image)
    pointer = struct.unpack_from("<I", image, 28)[0]
    struct.pack_into("<I", killed, 28, pointer | 3 << 15)
    struct.pack_into("<I", gone, 28, 3 << 15)
    expected = traces([HeapRecord("XLOG FPI_FOR_HINT", "", 0, 0, True, image)])
    assert without_trace(bytes(killed), expected) == altered(bytes(killed), expected) == []
    assert without_trace(bytes(gone), expected) == ["no tuple 2, which transaction 701 wrote"]


def test_an_update_across_blocks_leaves_one_tuple_on_each() -> None:
    said = "old_xmax: 706, old_off: 1, old_infobits: [], flags: 0x00, new_xmax: 0, new_off: 5"
    assert traces([INSERT, record("UPDATE", said, 706, block_id=1, alone=False)]) == {1: Trace(700, 706)}
    assert traces([record("UPDATE+INIT", said, 706, block_id=0, alone=False)]) == {5: Trace(706)}


def test_an_image_and_what_is_not_known_end_what_was_known_and_freezing_who_changed_a_row() -> None:
    locked = "xmax: 9, off: 2, infobits: [LOCK_ONLY], flags: 0x00"
    image = record("LOCK", locked, image=page((600, 0), (601, 9)))
    assert traces([INSERT, image]) == {1: Trace(600, None, EMPTY), 2: Trace(601, 9, EMPTY)}
    freeze = HeapRecord("Heap2 PRUNE_VACUUM_SCAN", "isCatalogRel: F, nplans: 1, plans: [...]", 0, 0, True)
    assert traces([INSERT, DELETE, freeze]) == {1: Trace(700, None)}
    assert traces([INSERT, DELETE, freeze._replace(kind="Heap2 FREEZE_PAGE")]) == {1: Trace(700, None)}
    assert traces([INSERT, record("INPLACE", "off: 1")]) == {}


def test_a_row_must_have_the_bytes_that_were_inserted() -> None:
    body = b"\x01the row\x00"
    inserted = record("INSERT", "off: 1, flags: 0x08", 700, data=bytes(5) + body)
    assert traces([inserted, DELETE]) == {1: Trace(700, 705, body)}
    assert altered(page((700, 705), body=body), traces([inserted, DELETE])) == []
    other = page((700, 705), body=b"\x01the r0w\x00")
    assert altered(other, traces([inserted, DELETE])) == [
        "tuple 1 differs from what transaction 700 wrote, from byte 29 on"
    ]
    assert without_trace(other, traces([inserted, DELETE])) == []
    assert altered(other, traces([INSERT])) == [], "WAL does not have the bytes"
    assert altered(page((699, 0)), traces([inserted])) == [], "that is another tuple, and said otherwise"
    hot = traces([inserted, HOT])
    assert (hot[1].body, hot[2].body) == (body, None), "an update may log only what differs from the old row"


def test_the_bytes_of_an_image_count_as_inserted_and_a_hint_leaves_them() -> None:
    body = b"\x01the row\x00"
    image = page((700, 0), (706, 0), body=body)
    hint = HeapRecord("XLOG FPI_FOR_HINT", "", 0, 0, True, image)
    assert traces([hint]) == {1: Trace(700, None, body), 2: Trace(706, None, body)}
    updated = traces([HOT._replace(image=image)])
    assert updated == {1: Trace(700, 706, body), 2: Trace(706, None, body)}
    assert altered(page((700, 706), (706, 0)), updated) == [
        "tuple 1 differs from what transaction 700 wrote, from byte 23 on",
        "tuple 2 differs from what transaction 706 wrote, from byte 23 on",
    ]
    again = record("INSERT", "off: 2, flags: 0x00", 706, image=image)
    assert traces([again])[2] == Trace(706, None, body)


CONFIRM = record("HEAP_CONFIRM", "off: 1", 700)


def test_a_speculative_insertion_is_confirmed_and_all_that_was_known_stays() -> None:
    """INSERT ... ON CONFLICT, which is how bookings are written."""
    assert traces([INSERT, CONFIRM]) == {1: Trace(700)}
    again = record("INSERT", "off: 1, flags: 0x00", 709)
    assert len(conflicts([INSERT, CONFIRM, again])) == 1
    assert places_of("Heap HEAP_CONFIRM", "off: 1", 0) == Places()


def test_only_what_was_written_before_a_record_speaks_of_the_page_that_it_was_made_upon() -> None:
    """The page in doubt is in every image that was made afterwards."""
    wrong = page((600, 0), (601, 0), (706, 0))
    early = INSERT._replace(end_lsn=100)
    hint = HeapRecord("XLOG FPI_FOR_HINT", "", 0, 0, True, wrong, None, 200)
    late = record("INSERT", "off: 3, flags: 0x00", 706)._replace(end_lsn=300)
    expected = proved_before([early, hint, late], 100)
    assert expected == {1: Trace(700)}
    assert without_trace(wrong, expected) == ["tuple 1 is of transaction 600, not 700"]
    assert proved_before([hint, late], 100) == {}, "nothing is known of the page before"
    pruned = HeapRecord("Heap2 PRUNE_ON_ACCESS", "nplans: 0, unused: [1]", 0, 0, True, wrong, None, 250)
    assert proved_before([early, pruned, late], 100) == {}
    gone = DELETE._replace(end_lsn=260, image=wrong)
    assert proved_before([early, gone], 100) == {1: Trace(700, 705)}
    new_page = HeapRecord("XLOG FPI", "", 0, 0, True, wrong, None, 270)
    assert proved_before([early, new_page, late], 100) == {}


def test_a_page_that_is_made_anew_has_nothing_of_before() -> None:
    """VACUUM cut its table off there, and it grew again."""
    first = record("INSERT+INIT", "off: 1, flags: 0x00", 709)
    assert traces([INSERT, record("INSERT", "off: 2, flags: 0x00", 701), first]) == {1: Trace(709)}
    said = "old_xmax: 706, old_off: 1, old_infobits: [], flags: 0x00, new_xmax: 0, new_off: 5"
    assert traces([INSERT, record("UPDATE+INIT", said, 706, block_id=1, alone=False)]) == {1: Trace(700, 706)}


def test_the_rows_of_one_record_lie_two_bytes_aligned() -> None:
    rows = [b"\x01abc", b"\x01de", b"\x01f"]
    data = b""
    for row in rows:
        data += b"\0" * (len(data) % 2) + struct.pack("<HHHB", len(row), 3, 0x900, 24) + row
    many = HeapRecord("Heap2 MULTI_INSERT", "ntuples: 3, flags: 0x02, offsets: [1, 2, 3]", 700, 0, True, None, data)
    assert traces([many]) == {number + 1: Trace(700, None, row) for number, row in enumerate(rows)}
    assert traces([many._replace(data=data[:12])]) == {1: Trace(700), 2: Trace(700), 3: Trace(700)}


def test_pruning_takes_away_what_it_names_and_leaves_the_rest() -> None:
    said = "snapshotConflictHorizon: 742, isCatalogRel: F, nplans: 0, nredirected: 1, ndead: 1, redirected: [3->4], dead: [2]"
    prune = HeapRecord("Heap2 PRUNE_ON_ACCESS", said, 0, 0, True)
    others = [record("INSERT", f"off: {number}, flags: 0x00", 700 + number) for number in (2, 3, 4, 5)]
    assert traces([INSERT, *others, prune]) == {1: Trace(700), 5: Trace(705)}


def test_a_speculative_insertion_that_was_taken_back_leaves_none() -> None:
    gone = record("DELETE", "xmax: 700, off: 1, infobits: [], flags: 0x08")
    assert traces([INSERT, gone]) == {}


def test_several_rows_of_one_record() -> None:
    many = HeapRecord("Heap2 MULTI_INSERT", "ntuples: 2, flags: 0x02, offsets: [1, 2]", 700, 0, True)
    assert traces([many]) == {1: Trace(700), 2: Trace(700)}
    assert traces([many._replace(kind="Heap2 MULTI_INSERT+INIT", description="ntuples: 2, flags: 0x02")]) == {}


@pytest.mark.parametrize(
    ("kind", "said", "block_id", "expected"),
    [
        ("Heap INSERT", "off: 3, flags: 0x00", 0, Places(taken=8)),
        ("Heap INSERT+INIT", "off: 1, flags: 0x00", 0, Places(taken=2, is_reset=True)),
        (
            "Heap HOT_UPDATE",
            "old_xmax: 7, old_off: 1, old_infobits: [], flags: 0x20, new_xmax: 0, new_off: 2",
            0,
            Places(taken=4),
        ),
        ("Heap UPDATE", "old_xmax: 7, old_off: 1, old_infobits: [], flags: 0x20, new_xmax: 0, new_off: 2", 1, Places()),
        ("Heap2 MULTI_INSERT", "ntuples: 2, flags: 0x02, offsets: [1, 2]", 0, Places(taken=6)),
        ("Heap2 MULTI_INSERT+INIT", "ntuples: 2, flags: 0x02", 0, None),
        ("Heap2 PRUNE_ON_ACCESS", "nplans: 0, ndead: 1, redirected: [3->4], dead: [2]", 0, Places(freed=4 + 8 + 16)),
        ("Heap DELETE", "xmax: 7, off: 1, infobits: [], flags: 0x08", 0, Places(freed=2)),
        ("Heap DELETE", "xmax: 7, off: 1, infobits: [], flags: 0x00", 0, Places()),
        ("Heap2 REWRITE", "", 0, None),
        ("Btree INSERT_LEAF", "off: 3", 0, None),
    ],
)
def test_what_a_record_does_to_the_places_of_its_page(
    kind: str, said: str, block_id: int, expected: Places | None
) -> None:
    assert places_of(kind, said, block_id) == expected


def test_two_tuples_at_one_place_show_that_the_first_was_lost() -> None:
    again = record("INSERT", "off: 1, flags: 0x00", 709)
    assert conflicts([INSERT, again]) == ["transaction 709 put a tuple at place 1, where WAL has one"]
    prune = HeapRecord("Heap2 PRUNE_ON_ACCESS", "nplans: 0, unused: [1]", 0, 0, True)
    assert conflicts([INSERT, prune, again]) == []
    image = record("LOCK", "xmax: 9, off: 2, infobits: [], flags: 0x00", image=page((600, 0), (601, 9)))
    assert len(conflicts([image, record("INSERT", "off: 2, flags: 0x00", 709)])) == 1
