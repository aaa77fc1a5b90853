"""Accesses wait in memory while no primary takes them, each is written once, and there is an end to how many wait."""

from __future__ import annotations

import asyncio
from typing import Any

from server import audit
from server.audit import Audit
from server.errors import Refusal


class Table:
    """Takes rows, or refuses them."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.is_away = False

    async def write(self, columns: tuple[object, ...], until_s: float) -> None:
        del until_s
        if self.is_away:
            raise Refusal(503, "transient", "no primary")
        self.rows += list(zip(*columns, strict=True))  # type: ignore[call-overload]


async def test_rows_wait_and_come_in_order_and_once() -> None:
    table = Table()
    queue = Audit(table.write)
    table.is_away = True
    for number in range(2_500):
        queue.note("staff", "read", f"Appointment/{number}", "ada")
    await queue.flush(1)
    assert table.rows == []
    table.is_away = False
    await queue.flush(1)
    assert [row[5] for row in table.rows] == [f"Appointment/{number}" for number in range(2_500)]
    assert {row[3] for row in table.rows} == {"R"}
    await queue.flush(1)
    assert len(table.rows) == 2_500


async def test_memory_is_bounded_and_what_is_dropped_is_counted(monkeypatch: Any) -> None:
    monkeypatch.setattr(audit, "KEPT_MAX", 3)
    queue = Audit(Table().write)
    for _ in range(5):
        queue.note("staff", "search-type", "Appointment?", None)
    assert queue.dropped == 2


async def test_two_at_once_write_each_row_once() -> None:
    class Slow(Table):
        async def write(self, columns: tuple[object, ...], until_s: float) -> None:
            await asyncio.sleep(0.01)
            await super().write(columns, until_s)

    table = Slow()
    queue = Audit(table.write)
    for number in range(5):
        queue.note("staff", "read", f"Appointment/{number}", "ada")
    await asyncio.gather(queue.flush(1), queue.flush(1))
    assert [row[5] for row in table.rows] == [f"Appointment/{number}" for number in range(5)]
