"""Which PostgreSQL is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

from replication.control_file import parse_control
from replication.errors import ActionFailed, InstallationError
from replication.installation import check_version, find_installation, parse_version


@pytest.mark.parametrize(
    ("text", "version"),
    [("postgres (PostgreSQL) 18.6", (18, 6)), ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", (15, 18))],
)
def test_versions(text: str, version: tuple[int, int]) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["postgres (PostgreSQL) 19beta1", "postgres (PostgreSQL) 19devel", "", "bash 5.2"])
def test_what_is_not_a_release(text: str) -> None:
    with pytest.raises(InstallationError):
        parse_version(text)


@pytest.mark.parametrize("version", [(14, 20), (15, 12), (16, 8), (17, 4), (9, 6)])
def test_versions_whose_barrier_has_a_hole_are_refused(version: tuple[int, int]) -> None:
    with pytest.raises(InstallationError, match=f"{version[0]}.{version[1]}"):
        check_version(version)


@pytest.mark.parametrize("version", [(15, 13), (16, 9), (17, 5), (18, 0), (19, 0)])
def test_versions_that_are_accepted(version: tuple[int, int]) -> None:
    check_version(version)


def test_a_directory_without_postgres(tmp_path: Path) -> None:
    with pytest.raises(InstallationError, match=str(tmp_path)):
        find_installation(tmp_path)


def test_pg_control_with_a_wrong_crc() -> None:
    with pytest.raises(ActionFailed, match="CRC"):
        parse_control("WARNING: Calculated CRC checksum does not match value stored in file.\n")


def test_pg_control_that_says_something_else() -> None:
    with pytest.raises(ActionFailed, match="unexpected"):
        parse_control("pg_control version number: 1800\n")
