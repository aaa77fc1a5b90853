"""What is kept in memory of the receipts, what a restart finds again, and what may be forgotten."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

from server.receipts import Noted, Receipts
from server.scheduling import Status
from server.seal import Seal
from server.store import AppointmentRow, Kept

FILE_BYTES = 20_000
AT = datetime(2026, 1, 1, tzinfo=UTC)


def kept(number: int, version: int = 1, *, timeline: int = 1, lsn: int = 100, comment: str = "") -> Kept:
    row = AppointmentRow(
        uuid.UUID(int=number), version, Status.BOOKED, uuid.UUID(int=9), AT, AT, "p", "P", "s", "S", "l", "L", "UTC",
        "patient", None, comment, None, AT, AT,
    )  # fmt: skip
    return Kept(201, row, f"digest {number} {version}", lsn, f"{timeline:08X}0000000000000001")


def opened(directory: Path) -> Receipts:
    receipts = Receipts(directory / "receipts", Seal("key"), lambda _problem: None, file_bytes=FILE_BYTES)
    assert receipts.load() == []
    return receipts


def shown(receipts: Receipts) -> set[tuple[int, int, int, int]]:
    return {(uuid.UUID(item.id).int, item.version, item.timeline, item.insert_lsn) for item in receipts.newest()}


async def test_the_newest_of_each_id_is_known_and_found_again_after_a_restart(tmp_path: Path) -> None:
    receipts = opened(tmp_path)
    await receipts.keep(kept(1))
    await receipts.keep(kept(2, lsn=110))
    await receipts.keep(kept(1, 2, timeline=2, lsn=50))
    await receipts.keep(kept(1, timeline=2, lsn=60))  # an old answer given again
    receipts.close()
    assert shown(receipts) == {(1, 2, 2, 50), (2, 1, 1, 110)}
    assert shown(opened(tmp_path)) == {(1, 2, 2, 50), (2, 1, 1, 110)}


async def test_only_a_whole_file_that_was_seen_below_the_certified_lsn_is_forgotten(tmp_path: Path) -> None:
    receipts = opened(tmp_path)
    for number in range(1, 13):
        await receipts.keep(kept(number, lsn=100 + number, comment="x" * (FILE_BYTES // 10)))
    first, second, *_ = sorted((tmp_path / "receipts").iterdir())
    await receipts.forget_certified(1, 10_000)
    assert len(receipts.newest()) == 12, "none of them was seen on a primary"
    receipts.seen(receipts.newest(), Noted(1, 5_000))
    await receipts.forget_certified(1, 4_999)
    await receipts.forget_certified(2, 10_000)
    assert len(receipts.newest()) == 12
    await receipts.forget_certified(1, 5_000, kept_s=3_600)
    assert len(receipts.newest()) == 12, "the guard knows the last hours, whatever was certified"
    await receipts.forget_certified(1, 5_000)
    kept_files = list((tmp_path / "receipts").iterdir())
    assert first not in kept_files
    assert second in kept_files
    assert 0 < len(receipts.newest()) < 12


async def test_a_row_that_was_changed_since_it_was_seen_is_not_forgotten(tmp_path: Path) -> None:
    receipts = opened(tmp_path)
    for number in range(1, 7):
        await receipts.keep(kept(number, comment="x" * (FILE_BYTES // 10)))
    (old,) = (item for item in receipts.newest() if item.id == str(uuid.UUID(int=6)))
    await receipts.keep(kept(6, 2, comment="x" * (FILE_BYTES // 10)))
    receipts.seen([*(item for item in receipts.newest() if item.version == 1), old], Noted(1, 500))
    await receipts.forget_certified(1, 10_000)
    assert (6, 2) in {(number, version) for number, version, _, _ in shown(receipts)}
