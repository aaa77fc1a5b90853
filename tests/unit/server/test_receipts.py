"""What is kept in memory of the receipts, what a restart finds again, and what may be forgotten."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from server.acknowledged import sealed
from server.idempotency import Claim
from server.receipt_file import ReceiptFiles
from server.receipts import Noted, Receipts
from server.scheduling import Status
from server.seal import Seal
from server.store import AppointmentRow, Kept

FILE_BYTES = 20_000
AT = datetime(2026, 1, 1, tzinfo=UTC)
CLAIM = Claim("key", b"digest")


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
    await receipts.keep(kept(1), CLAIM)
    await receipts.keep(kept(2, lsn=110), CLAIM)
    await receipts.keep(kept(1, 2, timeline=2, lsn=50), CLAIM)
    await receipts.keep(kept(1, timeline=2, lsn=60), CLAIM)  # an old answer given again
    receipts.close()
    assert shown(receipts) == {(1, 2, 2, 50), (2, 1, 1, 110)}
    assert shown(opened(tmp_path)) == {(1, 2, 2, 50), (2, 1, 1, 110)}


async def test_only_a_whole_file_that_was_seen_below_the_certified_lsn_is_forgotten(tmp_path: Path) -> None:
    receipts = opened(tmp_path)
    for number in range(1, 13):
        await receipts.keep(kept(number, lsn=100 + number, comment="x" * (FILE_BYTES // 10)), CLAIM)
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
        await receipts.keep(kept(number, comment="x" * (FILE_BYTES // 10)), CLAIM)
    (old,) = (item for item in receipts.newest() if item.id == str(uuid.UUID(int=6)))
    await receipts.keep(kept(6, 2, comment="x" * (FILE_BYTES // 10)), CLAIM)
    receipts.seen([*(item for item in receipts.newest() if item.version == 1), old], Noted(1, 500))
    await receipts.forget_certified(1, 10_000)
    assert (6, 2) in {(number, version) for number, version, _, _ in shown(receipts)}


async def test_all_keys_under_which_an_appointment_was_answered_are_kept_with_it(tmp_path: Path) -> None:
    receipts = opened(tmp_path)
    name = str(uuid.UUID(int=1))
    await receipts.keep(kept(1), Claim("booked", b"\x01"))
    await receipts.keep(kept(2), Claim("another", b"\x02"))
    await receipts.keep(kept(1, 2, comment="changed"), Claim("changed", b"\x03"))
    await receipts.keep(kept(1, lsn=200), Claim("booked", b"\x01"))  # given again
    for place in (receipts, opened(tmp_path)):
        found = await place.acknowledged([name, "somebody"])
        assert list(found) == [name]
        assert b'"comment":"changed"' in found[name].row
        answers = [(one.key, one.digest, one.answer.appointment.version) for one in found[name].answers]
        assert answers == [("booked", "01", 1), ("changed", "03", 2)]
        assert found[name].answers[0].answer.digest == "digest 1 1"
        assert [one.id for one in place.expected.under("booked")] == [name]
    for path in (tmp_path / "receipts").glob("*.log"):
        assert b"booked" not in path.read_bytes()


@pytest.mark.parametrize("answered", [None, b"not what was written, and long enough"])
async def test_a_receipt_without_a_readable_key_still_gives_its_row_back(
    tmp_path: Path, answered: bytes | None
) -> None:
    files = ReceiptFiles(tmp_path / "receipts", FILE_BYTES)
    files.read()
    new = sealed(Seal("key"), kept(1), CLAIM)
    files.append([msgspec.structs.replace(new, answered=answered)])
    files.close()
    name = new.receipt.id
    found = (await opened(tmp_path).acknowledged([name]))[name]
    assert name.encode() in found.row
    assert found.answers == ()
