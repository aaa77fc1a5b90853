"""What other workers kept is read from their files, whether they live or not, and a file that cannot be read ends nobody."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from replication.model import Receipt
from server.receipt_file import ReceiptFiles, Stored
from server.receipts import Receipts
from server.seal import Seal
from server.siblings import SiblingFiles, Siblings
from tests.unit.server.test_expected import SLOT, row

SEAL = Seal("secret")


def stored(version: int) -> Stored:
    one = row(version=version)
    return Stored(Receipt(str(one.id), version, 1, 1, "d"), SEAL.close(msgspec.json.encode(one), str(one.id)))


async def test_a_worker_learns_what_another_wrote_each_record_once_and_forgets_with_the_file(tmp_path: Path) -> None:
    files = ReceiptFiles(tmp_path, 64 * 1024)
    files.read()
    reader = SiblingFiles([tmp_path])
    assert reader.news() == ([], [])
    files.append([stored(1)])
    files.append([stored(2)])
    assert [one.receipt.version for one in reader.news()[0]] == [1, 2]
    assert reader.news() == ([], [])
    for path in tmp_path.glob("*.log"):
        path.unlink()
    assert reader.news() == ([], [stored(1).receipt.id])


async def test_what_another_worker_acknowledged_guards_this_ones_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ReceiptFiles(tmp_path / "other", 64 * 1024)
    other.read()
    receipts = Receipts(tmp_path / "own", SEAL, lambda _problem: None)
    siblings = Siblings(receipts, [tmp_path / "other"])
    other.append([stored(1)])
    await siblings.catch_up()
    name = stored(1).receipt.id
    assert receipts.known_before(name, float("inf")) == stored(1).receipt
    assert [one.id for one in receipts.expected.in_the_way(SLOT, None)] == [name]
    assert [receipt.id for receipt in await siblings.all()] == [name]

    def fails(_self: SiblingFiles) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(SiblingFiles, "news", fails)
    await siblings.catch_up()
    with pytest.raises(OSError, match="Input/output"):
        await siblings.all()
