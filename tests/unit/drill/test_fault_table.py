"""Which faults strike, how often and for how long, and what the log says."""

from __future__ import annotations

import threading

from failover.drill.faultfs.spec import Fault, Kind, Op
from failover.drill.faultfs.table import FaultTable, Fired

RELATION = "/base/5/16384"
WAL = "pg_wal/000000010000000000000004"


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def strikes(table: FaultTable, times: int, op: Op = Op.READ) -> int:
    return sum(bool(table.strike(op, RELATION, (2, 2), size=8192 * 3)) for _ in range(times))


def test_it_strikes_so_often_and_is_then_over() -> None:
    table = FaultTable()
    table.arm(Fault(kind=Kind.EIO, count=2))
    assert strikes(table, 5) == 2
    assert table.armed()[0]["over"] is True


def test_it_strikes_for_so_long() -> None:
    clock = Clock()
    table = FaultTable(clock=clock)
    table.arm(Fault(kind=Kind.EIO, duration_ms=500))
    assert strikes(table, 3) == 3
    clock.now_s += 0.5
    assert strikes(table, 3) == 0


def test_the_same_seed_strikes_the_same_operations() -> None:
    def pattern(seed: int) -> list[bool]:
        table = FaultTable()
        table.arm(Fault(kind=Kind.EIO, probability=0.3, seed=seed))
        return [bool(strikes(table, 1)) for _ in range(200)]

    assert pattern(1) == pattern(1)
    assert pattern(1) != pattern(2)
    assert 30 < sum(pattern(1)) < 90


def test_every_strike_is_logged_with_file_and_block() -> None:
    told: list[Fired] = []
    table = FaultTable(told.append)
    number = table.arm(Fault(kind=Kind.BIT_FLIP, op=Op.READ))
    table.strike(Op.READ, RELATION, (2, 3), size=8192 * 3)
    table.strike(Op.READ, RELATION, (3, 3), size=8192 * 3)
    table.strike(Op.WRITE, RELATION, (2, 2), size=8192 * 3)
    assert [(fired.fault, fired.path, fired.block, fired.existed) for fired in told] == [
        (number, "base/5/16384", 2, True),
        (number, "base/5/16384", 3, False),
    ]
    assert table.fired() == told
    assert table.fired(after=1) == told[1:]


def test_a_fault_of_bytes_does_not_count_where_there_are_none() -> None:
    table = FaultTable()
    table.arm(Fault(kind=Kind.LOST_WRITE))
    assert not table.strike(Op.WRITE, RELATION), "a truncation has no bytes"
    assert table.fired() == []


def test_healing_one_or_all_lets_go_what_is_held_up() -> None:
    table = FaultTable()
    first, second = table.arm(Fault(kind=Kind.STALL)), table.arm(Fault(kind=Kind.EIO))
    (stalled, _) = table.strike(Op.READ, RELATION, (0, 0))
    waiting = threading.Thread(target=stalled.healed.wait, args=(30,))
    waiting.start()
    assert table.disarm(first) == 1
    waiting.join(5)
    assert not waiting.is_alive()
    assert table.disarm(first) == 0
    assert [armed["id"] for armed in table.armed()] == [second]
    assert table.disarm() == 1
    assert strikes(table, 3) == 0


def page(lsn: int) -> bytes:
    return lsn.to_bytes(8, "little")[4:] + lsn.to_bytes(8, "little")[:4] + bytes(8184)


def test_a_lost_write_is_healed_by_the_next_one_of_its_block_and_says_which() -> None:
    table = FaultTable()
    table.arm(Fault(kind=Kind.LOST_WRITE, op=Op.WRITE, count=1))
    table.strike(Op.WRITE, RELATION, (2, 3), size=8192 * 4)
    table.written_again(RELATION, 8192, page(5))
    table.written_again(RELATION, 2 * 8192, page(0x1_0000_0020))
    assert table.healed() == [], "one of its two blocks is still lost"
    table.written_again(RELATION, 3 * 8192, page(7)[:4096])
    assert table.healed() == [], "half a block is not a block"
    table.written_again(RELATION, 2 * 8192, page(1) + page(0x2_0000_0030))
    (healed,) = table.healed()
    assert (healed.fired, healed.by) == (1, "base/5/16384, block 3 was written again with LSN 2/30")


def test_a_block_that_is_written_again_in_pieces_is_whole_once_they_cover_it() -> None:
    table = FaultTable()
    table.arm(Fault(kind=Kind.LOST_WRITE, op=Op.WRITE))
    table.strike(Op.WRITE, "/" + WAL, (4, 4))
    for first, length in ((4 * 8192 - 100, 3_000), (4 * 8192 + 2_000, 4_000), (4 * 8192 + 7_000, 5_000)):
        table.written_again(WAL, first, bytes(length))
        assert table.healed() == []
    table.written_again(WAL, 4 * 8192 + 6_000, bytes(1_000))
    assert [healed.by for healed in table.healed()] == [f"{WAL}, block 4 was written again"]


def test_a_misdirected_write_spoils_two_blocks_and_a_file_that_is_gone_is_healed() -> None:
    table = FaultTable()
    table.arm(Fault(kind=Kind.MISDIRECTED_WRITE, op=Op.WRITE, to_path="base/5/7", to_block=4, count=1))
    table.strike(Op.WRITE, RELATION, (2, 2), size=8192 * 4)
    table.written_again(RELATION, 2 * 8192, page(9))
    assert table.healed() == []
    table.gone("/base/5/7")
    assert [healed.by for healed in table.healed()] == ["base/5/7 was removed or renamed"]


def test_a_fault_on_read_spoils_nothing() -> None:
    table = FaultTable()
    table.arm(Fault(kind=Kind.BIT_FLIP, op=Op.READ))
    table.strike(Op.READ, RELATION, (2, 2), size=8192 * 4)
    table.written_again(RELATION, 2 * 8192, page(9))
    assert table.healed() == []
