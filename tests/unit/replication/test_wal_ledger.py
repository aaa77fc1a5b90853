"""The ledger's rules: each condition is there for a reason, and its removal is seen here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.scrub import wal_ledger
from replication.scrub.relation_path import relation_at
from replication.scrub.tuples import Places
from replication.scrub.wal_blocks import mark_of, parse_refs
from replication.scrub.wal_ledger import FIRST_LSN, Ledger, Mark, Reading, Ref, Relation

TABLE = Relation(1663, 5, 16397)
OTHER = Relation(1663, 5, 16400)
BASE = FIRST_LSN + 1_000


def at(offset: int) -> int:
    return BASE + offset


def ref(end: int, block: int = 0, *, mark: Mark = Mark.SET, image: int | None = None) -> Ref:
    return Ref(TABLE, block, at(end), mark, None if image is None else at(image))


def ledger(*refs: Ref, read_to: int = 1_000) -> Ledger:
    made = Ledger(BASE)
    assert made.note(refs, at(read_to)) == []
    return made


@pytest.mark.parametrize(
    ("lsn", "redo", "reading"),
    [
        (at(200), at(300), Reading.FITS),
        (at(100), at(300), Reading.STALE),
        (0, at(300), Reading.STALE),
        (1, at(300), Reading.UNTOLD),  # an index build leaves 0/1
        (at(100), at(150), Reading.UNTOLD),  # no checkpoint has written it yet
        (at(250), at(300), Reading.MISPLACED),  # no record of this block ended there
        (at(1_500), at(300), Reading.NOT_YET),  # beyond what was read
    ],
)
def test_a_page_is_judged_by_the_last_record_of_its_block(lsn: int, redo: int, reading: Reading) -> None:
    known = ledger(ref(100), ref(200), ref(220, block=7))
    assert known.judge(TABLE, 0, lsn, redo) is reading


def test_a_block_without_a_record_must_be_older_than_the_ledger() -> None:
    known = ledger(ref(100))
    assert known.judge(OTHER, 0, at(-500), at(900)) is Reading.UNTOLD
    assert known.judge(OTHER, 0, at(500), at(900)) is Reading.MISPLACED


def test_two_images_for_hint_bits_may_have_been_made_side_by_side() -> None:
    """MarkBufferDirtyHint works with a share lock: both images bear the LSN from before, and either's end may stay."""
    known = Ledger(BASE)
    assert known.note([ref(100)], at(100)) == []
    both = [ref(300, mark=Mark.UNSURE, image=100), ref(400, mark=Mark.UNSURE, image=100)]
    assert known.note(both, at(500)) == []
    assert [known.judge(TABLE, 0, at(lsn), at(500)) for lsn in (300, 400, 100, 50)] == [
        Reading.FITS,
        Reading.FITS,
        Reading.FITS,
        Reading.STALE,
    ]
    assert known.note([ref(600, image=300)], at(600)) == []
    assert known.judge(TABLE, 0, at(400), at(700)) is Reading.STALE


def test_an_image_for_hint_bits_may_leave_the_lsn_of_a_page_that_a_checkpoint_writes_just_then() -> None:
    """As it was seen: FPI_FOR_HINT, then a record whose image bears the LSN from before. An older image than that is a lie."""
    seen = [ref(100), ref(300, mark=Mark.UNSURE, image=100)]
    assert ledger(*seen).note([ref(1_100, image=100)], at(1_100)) == []
    assert [broken.reading for broken in ledger(*seen).note([ref(1_100, image=90)], at(1_100))] == [Reading.STALE]


def test_a_record_that_may_only_have_locked_the_block_allows_both() -> None:
    known = ledger(ref(100), ref(200, mark=Mark.UNSURE))
    assert [known.judge(TABLE, 0, at(lsn), at(500)) for lsn in (100, 200, 50)] == [
        Reading.FITS,
        Reading.FITS,
        Reading.STALE,
    ]


def test_an_image_older_than_the_blocks_last_record_breaks_the_chain() -> None:
    known = ledger(ref(100), ref(200))
    (broken,) = known.note([ref(1_200, image=100)], at(1_200))
    assert (broken.reading, broken.block, broken.previous_lsn) == (Reading.STALE, 0, at(200))


def test_an_image_of_another_place_breaks_the_chain() -> None:
    known = ledger(ref(100), ref(200), ref(250, block=1))
    (broken,) = known.note([ref(1_200, image=250)], at(1_200))
    assert broken.reading is Reading.MISPLACED


def test_a_block_without_a_record_may_bear_any_lsn() -> None:
    """CREATE DATABASE ... STRATEGY file_copy takes its template's pages as they are."""
    known = ledger(ref(100))
    assert known.note([Ref(OTHER, 0, at(1_100), Mark.SET, at(500))], at(1_100)) == []


def put(end: int, *places: int, image: int | None = None, freed: int = 0, is_reset: bool = False) -> Ref:
    taken = sum(1 << place for place in places)
    return ref(end, image=image)._replace(places=Places(taken, freed, is_reset))


def test_a_tuple_where_wal_has_put_another_shows_a_page_that_lost_it() -> None:
    known = ledger(put(100, 1), put(200, 2))
    (broken,) = known.note([put(1_100, 2)], at(1_100))
    assert (broken.reading, broken.previous_lsn) == (Reading.OCCUPIED, at(200))


@pytest.mark.parametrize(
    "between",
    [
        put(1_050, 5, freed=1 << 2),  # pruned
        put(1_050, 9, image=200),  # the page as it was read, which the chain of LSNs checks
        ref(1_050),  # a record of which nothing is known
    ],
)
def test_a_place_that_may_be_free_again_shows_nothing(between: Ref) -> None:
    known = ledger(put(100, 1), put(200, 2))
    assert known.note([between, put(1_100, 2)], at(1_100)) == []


def test_a_page_made_anew_over_tuples_that_wal_has_put_there_shows_it_too() -> None:
    """Zeroed, it is taken for a new one."""
    known = ledger(put(100, 1), put(200, 2))
    (broken,) = known.note([put(1_100, 1, is_reset=True)], at(1_100))
    assert broken.reading is Reading.OCCUPIED
    assert known.note([put(1_200, 2)], at(1_200)) == []


def test_an_empty_image_and_one_from_before_the_ledger_break_nothing() -> None:
    known = ledger(ref(100))
    assert (
        known.note([Ref(TABLE, 0, at(1_100), Mark.SET, 0), Ref(TABLE, 9, at(1_200), Mark.SET, at(-10))], at(1_200))
        == []
    )


def test_a_checkpoint_is_asked_for_what_it_must_have_written_and_only_once() -> None:
    known = ledger(ref(100), ref(200, block=1), read_to=250)
    known.note([ref(300), ref(400, block=2)], at(450))
    assert {block: last.lsn for block, last in known.due(at(250))[TABLE].items()} == {0: at(100), 1: at(200)}
    assert known.due(at(250)) == {}
    assert {block: last.lsn for block, last in known.due(at(500))[TABLE].items()} == {0: at(300), 2: at(400)}


def test_what_was_cut_off_is_forgotten() -> None:
    known = ledger(ref(100))
    known.forget(TABLE, 0)
    assert (len(known), known.judge(TABLE, 0, 0, at(900))) == (0, Reading.UNTOLD)


def test_it_stays_within_its_bound_and_says_from_where_on_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_ledger, "ENTRIES_MAX", 100)
    known = Ledger(BASE)
    known.note([ref(10 * block, block) for block in range(1, 151)], at(2_000))
    assert len(known) <= 100 and known.since > BASE
    assert known.judge(TABLE, 1, at(5), at(1_900)) is Reading.UNTOLD
    assert known.judge(TABLE, 150, at(5), at(1_900)) is Reading.STALE


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40), st.integers(0, 50))
def test_pages_that_were_written_as_they_should_are_never_accused(changes: list[tuple[int, bool]], cut: int) -> None:
    """A model disk: each change sets the page's LSN; a checkpoint writes all pages as they are then."""
    known, memory = Ledger(BASE), dict.fromkeys(range(6), 0)
    disk, redo = dict(memory), BASE
    for number, (block, is_image) in enumerate(changes, 1):
        end = at(number * 10)
        change = Ref(TABLE, block, end, Mark.SET, memory[block] if is_image else None)
        assert known.note([change], end) == []
        memory[block] = end
        if number == cut:
            disk, redo = dict(memory), end
    accused = [known.judge(TABLE, block, lsn, redo) for block, lsn in disk.items()]
    assert Reading.STALE not in accused and Reading.MISPLACED not in accused


_HEAD = "rmgr: {} len (rec/tot): {:6}/{:6}, tx: 738, lsn: {}, prev 0/01A00028, desc: {}"
WALDUMP = (
    _HEAD.format("Heap", 54, 150, "0/01A00050", "INSERT off 3 flags 0x00, blkref #0: rel 1663/5/16397 blk 4 FPW"),
    _HEAD.format("Transaction", 34, 34, "0/01A000E8", "COMMIT 2026-01-01 00:00:00.000000 UTC"),
    "pg_waldump: error: something else",
    _HEAD.format("Heap2", 59, 59, "0/01A00110", "VISIBLE cutoff xid 0 flags 0x01, ")
    + "blkref #0: rel 1663/5/16397 fork vm blk 0, blkref #1: rel 1663/5/16397 blk 4",
    _HEAD.format("XLOG", 49, 53, "0/01A00150", "FPI_FOR_HINT , blkref #0: rel 1663/5/16400 blk 9 FPW"),
)


def test_pg_waldumps_lines_name_the_same_blocks() -> None:
    refs, read_to = parse_refs(WALDUMP)
    assert refs == [
        Ref(TABLE, 4, 0x1A000E8),
        Ref(TABLE, 4, 0x1A00150),
        Ref(OTHER, 9, 0x1A00188, Mark.UNSURE),
    ]
    assert read_to == 0x1A00188


def test_hash_indexes_may_be_named_for_a_lock_alone() -> None:
    assert mark_of("Hash SQUEEZE_PAGE 0") is Mark.UNSURE
    assert mark_of("Hash INSERT 0") is Mark.SET


@pytest.mark.parametrize(
    ("path", "relation"),
    [
        ("base/5/16397", TABLE),
        ("global/1262", Relation(1664, 0, 1262)),
        ("pg_tblspc/99/PG_18_202506291/5/7", Relation(99, 5, 7)),
        ("base/5/16397_vm", None),
        ("pg_xact/0000", None),
    ],
)
def test_a_path_names_a_relation(path: str, relation: Relation | None) -> None:
    assert relation_at(path) == relation
