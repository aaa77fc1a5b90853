"""The built wheel holds what the parts need to run, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("server", "replication", "failover", "compose")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    # built from a copy: setuptools leaves a build directory behind, and other tests read the tree meanwhile
    copy = tmp_path_factory.mktemp("source")
    for package in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / file, copy / file)
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    done = subprocess.run([*build, str(out), str(copy)], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("locum-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_every_module_and_data_file_is_in_the_wheel(names: set[str]) -> None:
    sources = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".sql", ".toml") or path.name == "py.typed"
    }
    assert sources - names == set()
    assert "server/schema.sql" in names
    assert {f"{package}/py.typed" for package in PACKAGES} <= names


def test_no_tests_and_no_benchmarks_are_in_the_wheel(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_the_console_script_is_declared(names: set[str]) -> None:
    assert any(name.endswith("entry_points.txt") for name in names)
