"""What a part of the cluster imports before it works: after a death, patients wait for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

_LOADED = """
import sys
from compose.child import _part
_part(sys.argv[1])
print(*sorted({"numpy", "typer", "hypothesis", "aiohttp"} & set(sys.modules)))
"""


@pytest.mark.parametrize("part", ["controller", "server"])
def test_a_part_that_takes_over_does_not_wait_for_what_it_does_not_need(part: str) -> None:
    command = [sys.executable, "-c", _LOADED, part]
    loaded = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert loaded.stdout.split() == ["aiohttp"]
