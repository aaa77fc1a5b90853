"""After a failover amcheck looks at the booking tables: an index that misses a row is told before the incident may close."""

from __future__ import annotations

from pathlib import Path

from tests.integration.server.clinic import Clinic, clinic

# An index that is not ready gets no entries: what is booked meanwhile is missing in it, as after a lost write of an index page.
_READY = "UPDATE pg_index SET indisready = $1 WHERE indexrelid = 'appointment_patient'::regclass"


async def restarted(it: Clinic, term: int) -> tuple[str, ...] | None:
    """What the check of a new term says of the structure."""
    await it.node.kill()
    await it.node.start(term)
    it.publish(term, it.node)
    report = await it.wait_report(lambda report: report.receipts is not None and report.receipts.term == term, 30)
    assert report.receipts is not None
    assert (report.receipts.lost, report.receipts.double_booked) == (0, 0)
    return report.receipts.structure


async def test_an_index_that_misses_a_row_is_named_in_the_next_term(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        one, two = await it.proposals(2)
        assert (await it.book(one, "ada"))[0] == 201
        assert await restarted(it, 2) == ()
        async with it.node.sql() as connection:
            await connection.execute(_READY, False)
        await restarted(it, 3)  # so that every session knows
        assert (await it.book(two, "bob"))[0] == 201
        async with it.node.sql() as connection:
            await connection.execute(_READY, True)
        found = await restarted(it, 4)
        assert found is not None
        assert any("appointment_patient" in sentence for sentence in found), found
        async with it.node.sql() as connection:
            await connection.execute("REINDEX INDEX appointment_patient")
        await it.wait_report(lambda report: report.receipts is not None and report.receipts.structure == (), 30)
