"""After a failover amcheck looks at the booking tables: an index that misses a row is made anew before the incident may close, or told."""

from __future__ import annotations

from pathlib import Path

from replication.model import ReceiptCheck
from tests.integration.server.clinic import Clinic, clinic

# An index that is not ready gets no entries: what is booked meanwhile is missing in it, as after a lost write of an index page.
_READY = "UPDATE pg_index SET indisready = $1 WHERE indexrelid = 'appointment_patient'::regclass"


async def restarted(it: Clinic, term: int) -> ReceiptCheck:
    """What the check of a new term says."""
    await it.node.kill()
    await it.node.start(term)
    it.publish(term, it.node)
    report = await it.wait_report(lambda report: report.receipts is not None and report.receipts.term == term, 30)
    assert report.receipts is not None
    assert (report.receipts.lost, report.receipts.double_booked) == (0, 0)
    return report.receipts


async def with_an_index_that_misses_a_row(it: Clinic) -> None:
    one, two = await it.proposals(2)
    assert (await it.book(one, "ada"))[0] == 201
    first = await restarted(it, 2)
    assert (first.structure, first.reindexed) == ((), ())
    async with it.node.sql() as connection:
        await connection.execute(_READY, False)
    await restarted(it, 3)  # so that every session knows
    assert (await it.book(two, "bob"))[0] == 201
    async with it.node.sql() as connection:
        await connection.execute(_READY, True)


async def test_an_index_that_misses_a_row_is_made_anew_in_the_next_term(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        await with_an_index_that_misses_a_row(it)
        found = await restarted(it, 4)
        assert (found.structure, found.reindexed) == ((), ("appointment",))
        async with it.node.sql() as connection:
            await connection.execute("SELECT bt_index_check('appointment_patient', true)")
        assert (await restarted(it, 5)).reindexed == ()


async def test_an_index_that_cannot_be_made_anew_is_named_until_it_is(tmp_path: Path) -> None:
    async with clinic(tmp_path) as it:
        await with_an_index_that_misses_a_row(it)
        async with it.node.sql() as connection:
            await connection.execute("REVOKE EXECUTE ON FUNCTION locum_reindex_damaged FROM locum_server")
        found = await restarted(it, 4)
        assert found.structure is not None and found.reindexed == ()
        assert any("appointment_patient" in sentence for sentence in found.structure), found
        async with it.node.sql() as connection:
            await connection.execute("REINDEX INDEX appointment_patient")
        await it.wait_report(lambda report: report.receipts is not None and report.receipts.structure == (), 30)
