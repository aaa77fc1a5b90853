"""The OpenAPI document is true: whatever it allows is answered as it says, and nothing brings the server down.

Schemathesis draws the requests. `LOCUM_SCHEMA_EXAMPLES=400` for minutes of it; LOCUM_SCHEMA_S ends it after so many seconds.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.server.clinic import clinic

EXAMPLES = os.environ.get("LOCUM_SCHEMA_EXAMPLES", "10")
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def schemathesis() -> str:
    beside = Path(sys.executable).with_name("schemathesis")
    found = str(beside) if beside.exists() else shutil.which("schemathesis")
    if found is None:
        pytest.skip("schemathesis is not installed")
    return found


@pytest.mark.timeout(1_800)
async def test_every_answer_is_one_that_the_description_names(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        command = [schemathesis(), "run", f"{it.url}/openapi.json", "--checks", CHECKS, "--max-examples", EXAMPLES]
        command += [
            "--phases",
            "coverage,fuzzing",
            "--continue-on-failure",
            "--suppress-health-check",
            "all",
            "--no-color",
        ]
        if "LOCUM_SCHEMA_S" in os.environ:
            command += ["--max-time", os.environ["LOCUM_SCHEMA_S"]]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()[-6_000:]
        print(output.decode()[-1_500:])
        assert (await it.book((await it.proposals(1))[0], "afterwards"))[0] == 201
