"""What becomes of the bytes of a write that a fault strikes, and of an operation that it holds up."""

from __future__ import annotations

import errno
import threading
import time

import pytest

from failover.drill.faultfs import strikes
from failover.drill.faultfs.spec import Fault, Kind, Op
from failover.drill.faultfs.table import Armed, FaultTable
from failover.drill.faults.healed import counts

DATA = bytes(range(256)) * 64
"""Two blocks."""


def armed(fault: Fault) -> list[Armed]:
    table = FaultTable()
    table.arm(fault)
    op = next(iter(fault.ops()))
    return table.strike(op, "/base/5/16384", (0, 1))


def test_a_bit_flip_turns_one_bit() -> None:
    (piece,), elsewhere = strikes.written(armed(Fault(kind=Kind.BIT_FLIP, seed=3)), DATA, 8192)
    assert elsewhere is None
    assert piece[0] == 8192
    different = [one ^ other for one, other in zip(piece[1], DATA, strict=True) if one != other]
    assert [value.bit_count() for value in different] == [1]


def test_a_torn_write_brings_whole_sectors_of_each_block_but_not_all() -> None:
    pieces, _ = strikes.written(armed(Fault(kind=Kind.TORN_WRITE, seed=5)), DATA, 8192)
    assert [at for at, _ in pieces] == [8192, 16384]
    for at, piece in pieces:
        assert 0 < len(piece) < 8192
        assert len(piece) % 512 == 0
        assert piece == DATA[at - 8192 : at - 8192 + len(piece)]


def test_a_lost_write_brings_nothing_and_a_misdirected_one_goes_elsewhere() -> None:
    assert strikes.written(armed(Fault(kind=Kind.LOST_WRITE)), DATA, 0) == ([], None)
    pieces, elsewhere = strikes.written(armed(Fault(kind=Kind.MISDIRECTED_WRITE, to_block=7)), DATA, 0)
    assert pieces == []
    assert elsewhere == strikes.Misdirected(None, 7)


@pytest.mark.parametrize(
    ("kind", "number"), [(Kind.EIO, errno.EIO), (Kind.ENOSPC, errno.ENOSPC), (Kind.EROFS, errno.EROFS)]
)
def test_an_error_is_that_error(kind: Kind, number: int) -> None:
    with pytest.raises(OSError) as raised:  # noqa: PT011  the number is what matters
        strikes.refuse(armed(Fault(kind=kind, op=Op.WRITE)))
    assert raised.value.errno == number


def test_a_stall_ends_with_its_healing_and_a_slow_operation_by_itself() -> None:
    stalled = armed(Fault(kind=Kind.STALL))
    waiting = threading.Thread(target=strikes.hold_up, args=(stalled,))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    stalled[0].healed.set()
    waiting.join(5)
    assert not waiting.is_alive()

    began = time.monotonic()
    strikes.hold_up(armed(Fault(kind=Kind.SLOW, latency_ms=60)))
    assert time.monotonic() - began >= 0.06


@pytest.mark.parametrize(
    ("kind", "existed", "expected"),
    [
        ("enospc", False, True),
        ("stall", False, True),
        ("bit_flip", False, False),
        ("misdirected_write", False, True),
        ("lost_write", True, True),
    ],
)
def test_an_error_is_one_whatever_it_meets_but_a_block_that_is_new_holds_nothing_to_spoil(
    kind: str, existed: bool, expected: bool
) -> None:
    assert counts({"kind": kind, "existed": existed}) is expected
