"""The README's lines do what they say."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import msgspec

from tests.acceptance.cluster import running

README = Path(__file__).resolve().parents[2] / "README.md"


def curl_lines() -> str:
    """The block after the mark that names this test."""
    text = README.read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- test: tests/acceptance/test_readme\.py.*?-->\n```sh\n(.*?)```", text, re.DOTALL)
    return block


async def test_the_curl_lines_find_a_slot_and_book_it(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        script = curl_lines().replace("http://127.0.0.1:8080", cluster.ready.server)
        assert cluster.ready.server in script
        booked, searched = await run(script)
        assert booked["entry"][0]["resource"]["status"] == "booked"
        assert len(searched["entry"]) == 1
        assert searched["entry"][0]["resource"]["id"] == booked["entry"][0]["resource"]["id"]


async def run(script: str) -> list[dict[str, list[dict[str, dict[str, str]]]]]:
    """The JSON values that the lines print, with bash as a visitor has it."""
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", script),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        output, errors = await shell.communicate()
    assert shell.returncode == 0, (output, errors)
    values = re.split(r"(?<=\})\s*(?=\{\"resourceType\": ?\"Bundle\")", output.decode().strip())
    return [msgspec.json.decode(value) for value in values]
