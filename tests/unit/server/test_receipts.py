"""What is kept in memory of the receipts, what a restart finds again, and what may be forgotten."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

from replication.model import Receipt
from server.receipt_file import FILE_BYTES_MAX
from server.receipts import Noted, Receipts
from server.scheduling import Status
from server.seal import Seal
from server.store import AppointmentRow, Kept

AT = datetime(2026, 1, 1, tzinfo=UTC)


def kept(number: int, version: int = 1, comment: str = "") -> Kept:
    row = AppointmentRow(
        uuid.UUID(int=number), version, Status.BOOKED, uuid.UUID(int=9), AT, AT, "p", "P", "s", "S", "l", "L", "UTC",
        "patient", None, comment, None, AT, AT,
    )  # fmt: skip
    return Kept(201, row, f"digest {number} {version}")


def opened(directory: Path) -> Receipts:
    receipts = Receipts(directory / "receipts", Seal("key"), lambda _problem: None)
    assert receipts.load() == []
    return receipts


def shown(receipts: Receipts) -> set[tuple[int, int, int, int]]:
    return {(uuid.UUID(item.id).int, item.version, item.timeline, item.flush_lsn) for item in receipts.newest()}


async def test_the_newest_of_each_id_is_known_and_found_again_after_a_restart(tmp_path: Path) -> None:
    receipts = opened(tmp_path)
    await receipts.keep(kept(1), Noted(1, 100))
    await receipts.keep(kept(2), Noted(1, 110))
    await receipts.keep(kept(1, 2), Noted(2, 50))
    await receipts.keep(kept(1), Noted(2, 60))  # an old answer given again
    receipts.close()
    assert shown(receipts) == {(1, 2, 2, 50), (2, 1, 1, 110)}
    assert shown(opened(tmp_path)) == {(1, 2, 2, 50), (2, 1, 1, 110)}


async def test_only_a_whole_file_that_is_certified_on_its_own_timeline_is_forgotten(tmp_path: Path) -> None:
    receipts = opened(tmp_path)
    await receipts.keep(kept(1, comment="x" * (FILE_BYTES_MAX // 10)), Noted(1, 100))
    for number in range(2, 13):
        await receipts.keep(kept(number, comment="x" * (FILE_BYTES_MAX // 10)), Noted(1, 100 + number))
    files = sorted((tmp_path / "receipts").iterdir())
    assert len(files) == 2
    await receipts.forget_certified(1, 105)
    await receipts.forget_certified(2, 10_000)
    assert len(receipts.newest()) == 12
    await receipts.forget_certified(1, 10_000)
    assert sorted((tmp_path / "receipts").iterdir()) == files[1:]
    assert 0 < len(receipts.newest()) < 12


async def test_a_row_that_was_found_on_a_new_primary_counts_on_its_timeline_from_then_on(tmp_path: Path) -> None:
    receipts = opened(tmp_path)
    await receipts.keep(kept(1), Noted(1, 100))
    (old,) = receipts.newest()
    await receipts.keep(kept(2), Noted(2, 20))
    receipts.restamp([old, Receipt("unknown", 1, 1, 1, "")], Noted(2, 30))
    assert shown(receipts) == {(1, 1, 2, 30), (2, 1, 2, 20)}
