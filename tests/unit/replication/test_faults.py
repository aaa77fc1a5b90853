"""Errors of the SQL probe and the faults they stand for."""

from __future__ import annotations

import asyncpg
import msgspec
import pytest

from replication.errors import ActionFailed
from replication.faults import fault_of, fault_of_line, place_of
from replication.log_faults import LogFaults
from replication.log_tail import LogLine
from replication.model import Fault, FaultKind, Place, Reason


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ActionFailed(Reason.DEADLINE, "late"), FaultKind.UNRESPONSIVE),
        (TimeoutError(), FaultKind.UNRESPONSIVE),
        (asyncpg.TooManyConnectionsError("full"), FaultKind.OVERLOAD),
        (asyncpg.DataCorruptedError("page"), FaultKind.PAGE_CORRUPT),
        (asyncpg.IndexCorruptedError("index"), FaultKind.INDEX_CORRUPT),
        (asyncpg.DiskFullError("full"), FaultKind.STORAGE_FULL),
        (asyncpg.PostgresIOError("io"), FaultKind.STORAGE_ERROR),
        (asyncpg.CannotConnectNowError("starting up"), None),
        (asyncpg.ConnectionDoesNotExistError("ended"), None),
        (ConnectionRefusedError(), None),
    ],
)
def test_fault_of(error: Exception, kind: FaultKind | None) -> None:
    assert fault_of(error) is kind


@pytest.mark.parametrize(
    ("severity", "sqlstate", "message", "kind", "place"),
    [
        ("ERROR", "XX001", "invalid page in block 3 of relation base/5/16397", FaultKind.PAGE_CORRUPT,
         Place("base/5/16397", block=3)),
        ("ERROR", "XX001", 'invalid page in block 3 of relation "base/5/16397"', FaultKind.PAGE_CORRUPT,
         Place("base/5/16397", block=3)),
        ("ERROR", "XX001", '2 invalid pages among blocks 4..9 of relation "base/5/16397"', FaultKind.PAGE_CORRUPT,
         Place("base/5/16397", block=4)),
        ("ERROR", "XX001", 'could not read block 7 in file "base/5/16397.1": read only 0 of 8192 bytes',
         FaultKind.PAGE_CORRUPT, Place("base/5/16397", block=7)),
        ("ERROR", "XX001", "could not read from WAL segment 000000010000000000000019, offset 0: read 0 of 8192",
         FaultKind.WAL_CORRUPT, Place("pg_wal/000000010000000000000019")),
        ("FATAL", "42501", 'could not create file "base/5/16397_fsm": Read-only file system', FaultKind.READ_ONLY,
         Place("base/5/16397")),
        ("ERROR", "58030", 'could not read blocks 7..7 in file "base/5/16397": Input/output error',
         FaultKind.STORAGE_ERROR, Place("base/5/16397", block=7)),
        ("PANIC", "58030", 'could not fsync file "base/5/16397_vm": Input/output error', FaultKind.STORAGE_ERROR,
         Place("base/5/16397")),
        ("PANIC", "53100", 'could not write to file "pg_wal/xlogtemp.12": No space left on device',
         FaultKind.STORAGE_FULL, Place("pg_wal/xlogtemp")),
        ("ERROR", "XX002", 'index "appointment_pkey" contains unexpected zero page at block 4', FaultKind.INDEX_CORRUPT,
         Place(relation="appointment_pkey", block=4)),
        ("ERROR", "XX001", "missing chunk number 0 for toast value 16421 in pg_toast_16397", FaultKind.PAGE_CORRUPT,
         Place(relation="pg_toast_16397")),
        ("ERROR", "XX000", 'unexpected data beyond EOF in block 54 of relation "base/16386/17301"', FaultKind.PAGE_CORRUPT,
         Place("base/16386/17301", block=54)),
        ("ERROR", "58P01", 'could not open file "base/5/16397.1" (target block 131072): No such file or directory',
         FaultKind.PAGE_CORRUPT, Place("base/5/16397", block=131072)),
        ("ERROR", "XX000", 'could not open file "base/5/16397": Structure needs cleaning', FaultKind.STORAGE_ERROR,
         Place("base/5/16397")),
        ("WARNING", "01000", 'checksum verification failed in file "./base/5/16397", block 2: calculated 1F but expected 2',
         FaultKind.PAGE_CORRUPT, Place("base/5/16397", block=2)),
        ("WARNING", "01000",
         'page is not marked all-visible but visibility map bit is set in relation "appointment" page 4',
         FaultKind.VM_CORRUPT, Place(relation="appointment", block=4)),
        ("WARNING", "XX001", 'page containing LP_DEAD items is marked as all-visible in relation "slot" page 0',
         FaultKind.VM_CORRUPT, Place(relation="slot", block=0)),
        ("PANIC", "XX000", "cannot abort transaction 12, it was already committed", FaultKind.STORAGE_ERROR, None),
        ("FATAL", "53300", "sorry, too many clients already", FaultKind.OVERLOAD, None),
    ],
)  # fmt: skip
def test_a_line_of_the_log_shows_a_fault_and_its_place(
    severity: str, sqlstate: str, message: str, kind: FaultKind, place: Place | None
) -> None:
    assert fault_of_line(severity, sqlstate, message) is kind
    assert place_of(message) == place


@pytest.mark.parametrize(
    ("severity", "sqlstate", "message"),
    [
        ("ERROR", "58P01", 'could not open extension control file "/x/y.control": No such file or directory'),
        ("ERROR", "58P01", "requested WAL segment 000000010000000000000003 has already been removed"),
        ("ERROR", "23P01", 'conflicting key value violates exclusion constraint "appointment_patient_free"'),
        ("ERROR", "XX000", "cache lookup failed for relation 16397"),
        ("FATAL", "57P03", "the database system is starting up"),
        ("LOG", "XX001", "a client may write whatever it likes into a message"),
        ("LOG", "00000", "statement: SELECT 'invalid page in block 3 of relation base/5/16397'"),
    ],
)
def test_what_is_no_fault_of_disk_or_data(severity: str, sqlstate: str, message: str) -> None:
    assert fault_of_line(severity, sqlstate, message) is None


def test_an_error_in_replay_is_a_failed_redo() -> None:
    context = "WAL redo at 0/3000028 for Heap/INSERT: off: 4, flags: 0x00"
    assert fault_of_line("FATAL", "XX000", "invalid max offset number", context=context) is FaultKind.REDO_FAILED
    assert fault_of_line("FATAL", "22023", "recovery aborted because of insufficient parameter settings") is None


def test_log_faults_keep_one_fault_a_kind_with_every_place_and_let_a_full_disk_pass() -> None:
    now_s = 100.0
    faults = LogFaults("a", lambda: now_s)
    line = LogLine(error_severity="ERROR", state_code="XX001", message="invalid page in block 3 of relation base/5/7")
    assert faults.note(line)
    assert not faults.note(line)
    assert faults.note(
        LogLine(error_severity="ERROR", state_code="XX001", message="invalid page in block 4 of relation base/5/7")
    )
    assert faults.note(LogLine(error_severity="ERROR", state_code="53100", message="no space left"))
    assert [fault.kind for fault in faults.faults()] == [FaultKind.PAGE_CORRUPT, FaultKind.STORAGE_FULL]
    assert faults.faults()[0].places == (Place("base/5/7", block=3), Place("base/5/7", block=4))
    now_s = 1_000.0
    assert [fault.kind for fault in faults.faults()] == [FaultKind.PAGE_CORRUPT]
    faults.clear()
    assert faults.faults() == ()


def test_a_suspicion_of_the_kernel_does_not_hide_what_postgres_says_and_gives_way_to_it() -> None:
    faults = LogFaults("a")
    assert faults.add(Fault(FaultKind.STORAGE_ERROR, 0.5, "", "the kernel counts errors", (), (Place("base/5/1"),)))
    assert not faults.faults()[0].is_proof
    faults.note(LogLine("could not read block", error_severity="ERROR", state_code="58030"))
    (fault,) = faults.faults()
    assert fault.is_proof
    assert "could not read block" in fault.sentence


def test_what_is_found_again_is_no_news_and_another_place_is() -> None:
    faults = LogFaults("a")
    first = Fault(FaultKind.PAGE_CORRUPT, 1.0, "", "bad", (), (Place("base/5/1", block=1),))
    other = Fault(FaultKind.PAGE_CORRUPT, 0.5, "", "bad map", (), (Place("base/5/1_fsm", block=0),))
    assert [faults.add(first), faults.add(first), faults.add(other)] == [True, False, True]
    (fault,) = faults.faults()
    assert (fault.is_proof, len(fault.places)) == (True, 2)


def test_a_suspicion_ends_with_the_last_of_its_places_that_is_seen_whole_and_a_proof_does_not() -> None:
    one, other = Place("base/5/16397_fsm", block=0), Place("base/5/16397_fsm", block=2)
    suspicion = Fault(FaultKind.PAGE_CORRUPT, 0.5, "", "noise", (), (one, other))
    faults = LogFaults("a")
    assert faults.add(suspicion)
    assert not faults.disproved(FaultKind.PAGE_CORRUPT, lambda _place: False)
    assert faults.disproved(FaultKind.PAGE_CORRUPT, one.__eq__)
    assert [fault.places for fault in faults.faults()] == [(other,)]
    assert faults.disproved(FaultKind.PAGE_CORRUPT, other.__eq__)
    assert faults.faults() == ()
    assert faults.add(msgspec.structs.replace(suspicion, confidence=1.0))
    assert not faults.disproved(FaultKind.PAGE_CORRUPT, lambda _place: True)
    assert [fault.places for fault in faults.faults()] == [(one, other)]
