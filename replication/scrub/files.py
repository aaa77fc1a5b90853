"""The relation files of a data directory: which there are, and in which order a pass reads them. Blocks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from replication.page_size import PAGE_BYTES, PAGES_A_SEGMENT

_RELATION = re.compile(r"^(?P<node>\d+)(?:_(?P<fork>fsm|vm|init))?(?:\.(?P<segment>\d+))?$")
"""Names of src/common/relpath.c and of md.c's segments. Temporary relations (`t3_1234`) are their session's own."""


class RelationFile(msgspec.Struct, frozen=True, order=True):
    """One file: its path below the data directory, its first block within the fork, and its pages when it was listed."""

    path: str
    first_block: int
    pages: int

    @property
    def fork_path(self) -> str:
        """The path without a segment number, as PostgreSQL names the fork."""
        return self.path.rpartition("/")[0] + "/" + self.path.rpartition("/")[2].partition(".")[0]


def relation_files(data_dir: Path) -> list[RelationFile]:
    """Every file with pages, by path, so that a pass can go on where it was. Raises OSError."""
    return sorted(file for folder in _folders(data_dir) for file in _in_folder(data_dir, folder))


def _folders(data_dir: Path) -> Iterator[Path]:
    yield data_dir / "global"
    yield from (data_dir / "base").iterdir()
    for tablespace in (data_dir / "pg_tblspc").iterdir():
        yield from (database for version in tablespace.glob("PG_*") for database in version.iterdir())


def _in_folder(data_dir: Path, folder: Path) -> Iterator[RelationFile]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return  # a database that was dropped meanwhile
    for entry in entries:
        found = _RELATION.match(entry.name)
        if found is None:
            continue
        try:
            size = entry.stat().st_size
        except FileNotFoundError:
            continue
        path = str(Path(folder, entry.name).relative_to(data_dir))
        yield RelationFile(path, int(found["segment"] or 0) * PAGES_A_SEGMENT, size // PAGE_BYTES)
