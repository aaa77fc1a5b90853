"""Faults as values: what concerns which operation, and what is refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.drill.faultfs.spec import Fault, FaultRefused, Files, Kind, Op, files_of, parse_fault


@pytest.mark.parametrize(
    ("path", "files"),
    [
        ("/base/5/16384", Files.RELATION),
        ("/base/5/16384.1", Files.RELATION),
        ("/base/5/16384_vm", Files.RELATION),
        ("/base/5/t3_16384", Files.RELATION),
        ("/global/1262", Files.RELATION),
        ("/pg_tblspc/16400/PG_18_202506291/5/16384", Files.RELATION),
        ("/pg_wal/000000010000000000000001", Files.WAL),
        ("/pg_wal/archive_status/x", Files.WAL),
        ("/pg_xact/0000", Files.XACT),
        ("/global/pg_control", Files.CONTROL),
        ("/base/5/PG_VERSION", Files.OTHER),
        ("/base/5/pg_filenode.map", Files.OTHER),
        ("/postgresql.conf", Files.OTHER),
    ],
)
def test_files_are_told_apart_by_their_path(path: str, files: Files) -> None:
    assert files_of(path) is files


def test_a_fault_strikes_its_operation_files_and_blocks_only() -> None:
    fault = Fault(kind=Kind.EIO, op=Op.READ, files=Files.RELATION, first_block=4, last_block=6)
    assert fault.concerns(Op.READ, "/base/5/16384", 0, 4)
    assert fault.concerns(Op.READ, "/base/5/16384", 6, 9)
    assert not fault.concerns(Op.READ, "/base/5/16384", 0, 3)
    assert not fault.concerns(Op.READ, "/base/5/16384", 7, 9)
    assert not fault.concerns(Op.WRITE, "/base/5/16384", 4, 4)
    assert not fault.concerns(Op.READ, "/pg_wal/000000010000000000000001", 4, 4)
    assert not fault.concerns(Op.READ, "/base/5/16384", None, None), "it is meant for blocks"


def test_a_pattern_is_matched_below_the_mount() -> None:
    fault = Fault(kind=Kind.EIO, path="base/*/16384*")
    assert fault.concerns(Op.WRITE, "/base/5/16384_fsm", 0, 0)
    assert not fault.concerns(Op.WRITE, "/base/5/2619", 0, 0)


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "fire"},
        {"kind": "eio", "op": "rename"},
        {"kind": "fsync_lies", "op": "read"},
        {"kind": "eio", "probability": 0},
        {"kind": "eio", "probability": 1.5},
        {"kind": "eio", "count": 0},
        {"kind": "eio", "first_block": -1},
        {"kind": "eio", "first_block": 7, "last_block": 6},
        {"kind": "slow"},
        {"kind": "eio", "latency_ms": 5},
        {"kind": "misdirected_write"},
        {"kind": "lost_write", "to_block": 1},
        {"kind": "misdirected_write", "to_block": 1, "to_path": "../secrets"},
        {"kind": "eio", "colour": "red"},
        {},
        None,
        [],
        "eio",
    ],
)
def test_what_makes_no_sense_is_refused(given: object) -> None:
    with pytest.raises(FaultRefused):
        parse_fault(given)


@given(
    st.sampled_from(Kind),
    st.floats(0.01, 1),
    st.integers(0, 1 << 32),
    st.none() | st.integers(1, 100),
    st.none() | st.integers(0, 100_000),
)
def test_a_fault_survives_json(
    kind: Kind, probability: float, seed: int, count: int | None, duration_ms: int | None
) -> None:
    fault = Fault(
        kind=kind,
        probability=probability,
        seed=seed,
        count=count,
        duration_ms=duration_ms,
        latency_ms=10 if kind is Kind.SLOW else 0,
        to_block=3 if kind is Kind.MISDIRECTED_WRITE else None,
    )
    assert parse_fault(msgspec.json.decode(msgspec.json.encode(fault))) == fault
