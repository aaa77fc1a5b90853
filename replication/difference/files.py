"""What belongs to a copy of a data directory, and what does not (src/backend/backup/basebackup.c, excludeFiles). Blocks."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from replication.page_size import PAGE_BYTES, PAGES_A_SEGMENT

_RELATION = re.compile(r"^(\d+)(_fsm|_vm|_init)?(?:\.(\d+))?$")
_TEMPORARY = re.compile(r"^t\d+_\d+")
_EMPTIED = frozenset(
    {"pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"}
)
_LEFT_OUT = frozenset(
    {
        "postmaster.pid", "postmaster.opts", "backup_label", "backup_label.old", "tablespace_map", "tablespace_map.old",
        "backup_manifest", "standby.signal", "recovery.signal", "promote", "fallback_promote", "postgresql.auto.conf",
        "postgresql.auto.conf.tmp", "current_logfiles", "current_logfiles.tmp",
    }
)  # fmt: skip
WAL = "pg_wal"
CONTROL = "global/pg_control"
"""Comes last: a directory without it cannot be started."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A file of the copy. `is_pages`: it is compared page by page, from `first_block` of its fork on."""

    path: str
    size: int
    is_pages: bool
    first_block: int = 0


class Listing(msgspec.Struct, frozen=True):
    """Everything that a copy holds: directories, without the data directory itself, and files, without pg_control."""

    directories: tuple[str, ...]
    files: tuple[Entry, ...]


class Unfit(Exception):
    """This directory cannot be copied by differences: says why."""


def listing(data_dir: Path) -> Listing:
    """Raises Unfit for one with tablespaces of its own, OSError."""
    if any((data_dir / "pg_tblspc").iterdir()):
        raise Unfit("it has tablespaces elsewhere")
    directories: list[str] = []
    files: list[Entry] = []
    for folder, names, members in os.walk(data_dir):
        relative = os.path.relpath(folder, data_dir)
        if relative != ".":
            directories.append(relative)
        if relative in _EMPTIED:
            directories += [f"{relative}/{name}" for name in names if relative == "pg_wal"]
            names.clear()
            continue
        unlogged = {
            found[1] for name in members if (found := _RELATION.match(name)) is not None and found[2] == "_init"
        }
        for name in members:
            path = name if relative == "." else f"{relative}/{name}"
            entry = _entry(data_dir, path, name, unlogged)
            if entry is not None:
                files.append(entry)
    return Listing(tuple(sorted(directories)), tuple(sorted(files, key=lambda entry: entry.path)))


def _entry(data_dir: Path, path: str, name: str, unlogged: set[str]) -> Entry | None:
    if (
        name in _LEFT_OUT
        or path == CONTROL
        or name.startswith(("pgsql_tmp", "pg_internal.init"))
        or _TEMPORARY.match(name)
    ):
        return None
    found = _RELATION.match(name)
    if found is not None and found[1] in unlogged and found[2] != "_init":
        return None
    try:
        size = (data_dir / path).stat().st_size
    except FileNotFoundError:
        return None
    in_relations = path.startswith(("base/", "global/"))
    if found is None or not in_relations or size % PAGE_BYTES:
        return Entry(path, size, is_pages=False)
    return Entry(path, size, True, int(found[3] or 0) * PAGES_A_SEGMENT)


def is_of_wal(path: str) -> bool:
    """pg_wal itself, or anything below it."""
    return path.split("/", maxsplit=1)[0] == WAL


def is_of_a_copy(path: str) -> bool:
    """Whether a peer may ask for this file: a plain path below the data directory."""
    parts = path.split("/")
    return bool(path) and all(part not in ("", ".", "..") for part in parts) and "\0" not in path
