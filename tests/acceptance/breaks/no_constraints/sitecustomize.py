"""A broken build: the schema lacks its exclusion constraints."""

from replication import schema

_true = schema._schema
_DROP = "".join(
    f"ALTER TABLE appointment DROP CONSTRAINT IF EXISTS appointment_{who}_free;\n"
    for who in ("practitioner", "location", "patient")
)


async def _without(connection, text):
    await _true(connection, text + _DROP)


schema._schema = _without
