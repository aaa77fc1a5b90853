"""Where a relation's files lie below the data directory (src/common/relpath.c, GetRelationPath)."""

from __future__ import annotations

from pathlib import Path

from replication.scrub.wal_ledger import Relation

_DEFAULT, _GLOBAL = 1663, 1664  # src/include/catalog/pg_tablespace.dat


def fork_path(data_dir: Path, relation: Relation) -> str | None:
    """The path of its main fork, without a segment number; None for a tablespace that is not here. Blocks."""
    if relation.tablespace == _GLOBAL:
        return f"global/{relation.number}"
    if relation.tablespace == _DEFAULT:
        return f"base/{relation.database}/{relation.number}"
    version = next(iter((data_dir / "pg_tblspc" / str(relation.tablespace)).glob("PG_*")), None)
    if version is None:
        return None
    return f"pg_tblspc/{relation.tablespace}/{version.name}/{relation.database}/{relation.number}"


def relation_at(path: str) -> Relation | None:
    """The relation whose main fork lies there; None for another fork or anything else."""
    parts = path.split("/")
    if not parts[-1].isdigit():
        return None
    if len(parts) == 2 and parts[0] == "global":
        return Relation(_GLOBAL, 0, int(parts[1]))
    if len(parts) == 3 and parts[0] == "base" and parts[1].isdigit():
        return Relation(_DEFAULT, int(parts[1]), int(parts[2]))
    if len(parts) == 5 and parts[0] == "pg_tblspc" and parts[1].isdigit() and parts[3].isdigit():
        return Relation(int(parts[1]), int(parts[3]), int(parts[4]))
    return None
