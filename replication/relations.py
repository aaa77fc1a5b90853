"""From the places that an error names to relations of a running node: by file, or by name."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import asyncpg

from replication.errors import SQL_ERRORS, ActionFailed
from replication.model import Place, Reason
from replication.node import DATABASE, Node

_FILE = re.compile(r"(?:base/(?P<database>\d+)|global)/(?P<file>\d+)")
_GLOBAL_TABLESPACE = 1664  # src/include/catalog/pg_tablespace.dat, pg_global
_DATABASES = "SELECT oid::bigint AS oid, datname FROM pg_database WHERE datallowconn"
_BY_FILE = """
SELECT c.oid::bigint AS oid, c.oid::regclass::text AS name, c.relkind::text AS kind, am.amname AS method,
       pg_relation_filepath(c.oid) AS path
FROM pg_class c LEFT JOIN pg_am am ON am.oid = c.relam
WHERE c.oid = pg_filenode_relation($1::bigint::oid, $2::bigint::oid)
"""
_BY_NAME = """
SELECT c.oid::bigint AS oid, c.oid::regclass::text AS name, c.relkind::text AS kind, am.amname AS method,
       pg_relation_filepath(c.oid) AS path
FROM pg_class c LEFT JOIN pg_am am ON am.oid = c.relam
WHERE c.relname = $1 AND c.relkind IN ('r', 'i', 't', 'm')
"""


@dataclass(frozen=True)
class Relation:
    """One relation, the connection to its database, and the blocks of it that were named. `kind` and `method` as in
    pg_class and pg_am."""

    connection: asyncpg.Connection
    oid: int
    name: str
    kind: str
    method: str | None
    path: str
    blocks: tuple[int, ...]


@asynccontextmanager
async def relations_of(node: Node, places: list[Place]) -> AsyncIterator[list[Relation]]:
    """The relations that these places lie in, each once. One that was dropped meanwhile is left out.

    Raises ActionFailed(FAILED) when PostgreSQL cannot be asked.
    """
    async with AsyncExitStack() as stack:
        try:
            finder = _Finder(node, stack)
            found: dict[tuple[str, int], Relation] = {}
            for place in places:
                for relation in await finder.find(place):
                    key = (relation.path, relation.oid)
                    known = found.get(key)
                    blocks = set(relation.blocks) | set(known.blocks if known is not None else ())
                    found[key] = Relation(**{**vars(relation), "blocks": tuple(sorted(blocks))})
        except SQL_ERRORS as error:
            raise ActionFailed(Reason.FAILED, f"the damaged places cannot be looked up here: {error!r}") from error
        yield list(found.values())


class _Finder:
    def __init__(self, node: Node, stack: AsyncExitStack) -> None:
        self._node = node
        self._stack = stack
        self._connections: dict[str, asyncpg.Connection] = {}
        self._names: dict[int, str] = {}

    async def find(self, place: Place) -> list[Relation]:
        if place.relation is not None:
            connection = await self._connect(DATABASE)
            rows = await connection.fetch(_BY_NAME, place.relation)
        else:
            named = _FILE.fullmatch(place.path or "")
            database = await self._database(named["database"]) if named is not None else None
            if named is None or database is None:
                return []
            connection = await self._connect(database)
            tablespace = 0 if named["database"] is not None else _GLOBAL_TABLESPACE
            rows = await connection.fetch(_BY_FILE, tablespace, int(named["file"]))
        blocks = () if place.block is None else (place.block,)
        return [Relation(connection, **dict(row), blocks=blocks) for row in rows]

    async def _database(self, oid: str | None) -> str | None:
        if oid is None:
            return DATABASE
        if not self._names:
            connection = await self._connect(DATABASE)
            self._names = {row["oid"]: row["datname"] for row in await connection.fetch(_DATABASES)}
        return self._names.get(int(oid))

    async def _connect(self, database: str) -> asyncpg.Connection:
        if database not in self._connections:
            connection = await self._node.connect(database=database, application_name="locum_read_places")
            self._stack.callback(connection.terminate)
            self._connections[database] = connection
        return self._connections[database]
