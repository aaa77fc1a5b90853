"""ApplySchema: roles, database, extensions and Locum's schema, on a primary that is still closed."""

from __future__ import annotations

import asyncpg

from replication.actions import ApplySchema
from replication.errors import ActionFailed
from replication.local_node import LocalNode, Outcome
from replication.model import Reason
from replication.node import DATABASE, ROLE_REPLICATION, ROLE_SERVER, SUPERUSER
from replication.scram import scram_secret
from replication.sql_write import bounded
from replication.threads import in_thread

_DEADLINE_S = 60.0
_EXTENSIONS = ("amcheck", "pageinspect", "pg_visibility", "btree_gist", "pg_walinspect")
_ROLES = {ROLE_REPLICATION: "LOGIN REPLICATION", ROLE_SERVER: "LOGIN CONNECTION LIMIT 60"}
_NEVER = "NOSUPERUSER NOCREATEDB NOCREATEROLE"


async def apply_schema(local: LocalNode, op: ApplySchema, revision: int) -> Outcome:
    """Idempotent: it may run again after an agent died in it. Raises ActionFailed(FAILED) with PostgreSQL's words."""
    del op, revision
    path = local.node.settings.schema_file
    try:
        text = await in_thread(path.read_text, encoding="utf-8")
    except OSError as error:
        raise ActionFailed(Reason.FAILED, f"cannot read the schema {path}: {error.strerror}") from error
    async with local.connection() as connection:
        await bounded(
            connection, _roles_and_database(local, connection), deadline_s=_DEADLINE_S, what="making the roles"
        )
    async with local.connection(DATABASE) as connection:
        await bounded(connection, _schema(connection, text), deadline_s=_DEADLINE_S, what="applying the schema")
    await local.refresh()
    return Outcome("the schema is there", {"schema_applied": True})


async def _roles_and_database(local: LocalNode, connection: asyncpg.Connection) -> None:
    async with connection.transaction():
        for role, rights in _ROLES.items():
            if not await connection.fetchval("SELECT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = $1)", role):
                await connection.execute(f"CREATE ROLE {role}")
            await connection.execute(f"ALTER ROLE {role} {rights} {_NEVER}")
        secrets = {ROLE_REPLICATION: "replication", ROLE_SERVER: "server", SUPERUSER: "superuser"}
        for role, name in secrets.items():
            secret = scram_secret(local.node.secret(name))
            await connection.execute(
                await connection.fetchval(
                    "SELECT format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text)", role, secret
                )
            )
    if not await connection.fetchval("SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)", DATABASE):
        await connection.execute(f"CREATE DATABASE {DATABASE}")
    await connection.execute(f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC")
    await connection.execute(f"GRANT CONNECT ON DATABASE {DATABASE} TO {ROLE_SERVER}")


async def _schema(connection: asyncpg.Connection, text: str) -> None:
    async with connection.transaction():
        for name in _EXTENSIONS:
            await connection.execute(f"CREATE EXTENSION IF NOT EXISTS {name}")
        await connection.execute(text)
