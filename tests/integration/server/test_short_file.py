"""A disk that forgot to make a table longer: the page is in shared buffers alone, and a scan of the table does not come to it."""

from __future__ import annotations

import os
from pathlib import Path

from replication.page_size import PAGE_BYTES
from tests.integration.server.bodies import only
from tests.integration.server.clinic import Clinic, clinic

_WHERE = "SELECT (ctid::text::point)[0]::int, pg_relation_filepath('idempotency') FROM idempotency WHERE key = $1"


async def place_of(it: Clinic, key: str) -> tuple[int, Path]:
    """The block in which a key lies, and the table's file."""
    async with it.node.sql() as connection:
        block, path = await connection.fetchrow(_WHERE, key)
        return block, it.node.data / path


async def test_a_key_is_known_again_though_the_file_ends_before_its_page(tmp_path: Path) -> None:
    """Else the patient is told that the slot is taken, by the booking that he has made himself."""
    async with clinic(tmp_path) as it:
        for n, slot in enumerate(await it.proposals(60)):
            status, made, _ = await it.book(slot, f"patient-{n}", Idempotency_Key=f"key-{n}")
            assert status == 201
            block, path = await place_of(it, f"key-{n}")
            if block > 0:
                break
        assert block > 0, "one page holds them all"
        os.truncate(path, block * PAGE_BYTES)
        status, again, _ = await it.book(slot, f"patient-{n}", Idempotency_Key=f"key-{n}")
        assert (status, only(again)) == (201, only(made))
        assert len(await it.rows()) == n + 1
