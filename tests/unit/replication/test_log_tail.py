"""New lines of a JSON log are heard as they are written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from replication.log_tail import LogLine, LogTail


class Heard:
    def __init__(self) -> None:
        self.lines: asyncio.Queue[LogLine] = asyncio.Queue()

    async def next(self) -> str:
        async with asyncio.timeout(5):
            return (await self.lines.get()).message


@pytest.fixture
async def heard(tmp_path: Path) -> AsyncIterator[Heard]:
    (tmp_path / "mon.json").write_text('{"message": "old"}\n')
    heard = Heard()
    tail = LogTail(tmp_path, heard.lines.put_nowait)
    yield heard
    tail.close()


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


async def test_only_what_is_new(tmp_path: Path, heard: Heard) -> None:
    append(tmp_path / "mon.json", '{"message": "new", "error_severity": "FATAL", "pid": 7, "other": [1]}\n')
    assert await heard.next() == "new"


async def test_half_a_line_waits_for_its_other_half(tmp_path: Path, heard: Heard) -> None:
    append(tmp_path / "mon.json", '{"message": ')
    append(tmp_path / "mon.json", '"whole"}\n{"message": "two"}\n')
    assert [await heard.next(), await heard.next()] == ["whole", "two"]


async def test_a_new_file_and_a_truncated_one(tmp_path: Path, heard: Heard) -> None:
    append(tmp_path / "tue.json", '{"message": "tuesday"}\n')
    assert await heard.next() == "tuesday"
    (tmp_path / "tue.json").write_text('{"message": "x"}\n')
    assert await heard.next() == "x"


async def test_what_is_not_json_is_passed_over(tmp_path: Path, heard: Heard) -> None:
    append(tmp_path / "mon.json", 'no json\n{"message": "after"}\n')
    append(tmp_path / "start.log", "ignored\n")
    assert await heard.next() == "after"
