"""Receipts files: what was written comes back, wherever a crash cut the file off; damage is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.model import Receipt
from server.receipt_file import MAGIC, ReceiptFiles, Stored, frame, parse
from server.seal import Seal, SealBroken

receipts = st.builds(
    Stored,
    st.builds(
        Receipt, st.uuids().map(str), st.integers(1, 2**31 - 1), st.integers(1, 99), st.integers(0, 2**62), st.text()
    ),
    st.binary(max_size=300),
)


def one(number: int, version: int = 1) -> Stored:
    return Stored(Receipt(f"id-{number}", version, 1, number, "digest"), b"row")


@given(st.lists(receipts, max_size=8), st.data())
def test_a_file_that_is_cut_off_anywhere_gives_the_records_before_the_cut(
    stored: list[Stored], data: st.DataObject
) -> None:
    frames = [frame(item) for item in stored]
    whole = MAGIC + b"".join(frames)
    cut = data.draw(st.integers(len(MAGIC), len(whole)))
    ends = [len(MAGIC) + sum(map(len, frames[: n + 1])) for n in range(len(frames))]
    expected = [item for item, end in zip(stored, ends, strict=True) if end <= cut]
    found, end = parse(whole[:cut])
    assert found == expected
    assert end == ([len(MAGIC), *ends])[len(expected)]


@given(st.lists(receipts, min_size=1, max_size=4), st.data())
def test_a_flipped_bit_never_gives_another_record(stored: list[Stored], data: st.DataObject) -> None:
    whole = bytearray(MAGIC + b"".join(map(frame, stored)))
    position = data.draw(st.integers(len(MAGIC), len(whole) - 1))
    whole[position] ^= 1 << data.draw(st.integers(0, 7))
    found, _ = parse(bytes(whole))
    assert found == stored[: len(found)]
    assert len(found) < len(stored)


def test_what_an_earlier_server_wrote_is_read_and_a_torn_end_is_cut_off(tmp_path: Path) -> None:
    files = ReceiptFiles(tmp_path / "receipts")
    assert files.read() == ({}, [])
    files.append([one(1), one(2)])
    files.append([one(3)])
    files.close()
    path = tmp_path / "receipts" / "receipts-00000001.log"
    assert path.stat().st_mode & 0o777 == 0o600
    torn = frame(one(4))[:-2]
    data = bytearray(path.read_bytes())
    end = parse(bytes(data))[1]
    data[end : end + len(torn)] = torn
    path.write_bytes(data)
    again = ReceiptFiles(tmp_path / "receipts")
    assert again.read() == ({1: [one(1), one(2), one(3)]}, [])
    again.append([one(5)])
    again.close()
    assert ReceiptFiles(tmp_path / "receipts").read() == ({1: [one(1), one(2), one(3)], 2: [one(5)]}, [])


def test_damage_in_the_middle_is_told_and_nothing_is_cut_off(tmp_path: Path) -> None:
    files = ReceiptFiles(tmp_path)
    files.read()
    files.append([one(number) for number in range(5)])
    files.close()
    path = tmp_path / "receipts-00000001.log"
    data = bytearray(path.read_bytes())
    data[len(MAGIC) + len(frame(one(0))) + 12] ^= 1
    path.write_bytes(data)
    found, damage = ReceiptFiles(tmp_path).read()
    assert found == {1: [one(0)]}
    assert [(place.path, place.offset) for place in damage] == [(path.name, len(MAGIC) + len(frame(one(0))))]
    assert path.read_bytes() == data


@given(st.binary(max_size=200), st.text(max_size=40))
def test_a_sealed_row_comes_back_with_the_same_key_and_id_only(row: bytes, name: str) -> None:
    sealed = Seal("one").close(row, name)
    assert Seal("one").open(sealed, name) == row
    for other, asked in (("two", name), ("one", name + "x")):
        with pytest.raises(SealBroken):
            Seal(other).open(sealed, asked)
