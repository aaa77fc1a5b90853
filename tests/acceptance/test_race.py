"""Three hundred clients for a hundred times, and the primary dies in the middle: nobody is in two places, and nothing promised is lost.

`LOCUM_RACE_S=60` for a minute of it.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import aiohttp
import pytest

from failover.drill.checker import check
from failover.drill.clinic import Clinic
from failover.drill.cluster import Cluster as Target
from tests.acceptance.cluster import running
from tests.acceptance.racing import Race, clinic_file

RACE_S = float(os.environ.get("LOCUM_RACE_S", "8"))
CLIENTS, TIMES, PRACTITIONERS, PATIENTS = 300, 100, 12, 60


@pytest.mark.timeout(int(4 * RACE_S) + 240)
async def test_a_race_for_everything_that_is_short_with_a_failover_in_the_middle(tmp_path: Path) -> None:
    clinic, config = tmp_path / "clinic.toml", tmp_path / "locum.toml"
    clinic.write_text(clinic_file(PRACTITIONERS))
    config.write_text(f'[server]\nclinic_file = "{clinic}"\n')
    options = ("--config", str(config), "--workers", "2", "--demo-practitioners", "0")
    async with running(tmp_path, *options) as cluster:
        async with aiohttp.ClientSession() as session:
            proposals = (await Clinic(session, cluster.ready.server).proposals(2))[:TIMES]
        assert len(proposals) == TIMES
        assert {bool(proposal.device) for proposal in proposals} == {True, False}
        race = Race(cluster.ready.server, proposals, PATIENTS, seed=1)
        before = await cluster.view()
        racing = asyncio.create_task(race.run(CLIENTS))
        try:
            await asyncio.sleep(RACE_S / 2)
            promised = race.acknowledged
            assert promised > 0
            cluster.kill_postgres(before["primary"])
            await cluster.wait_until(lambda view: view["term"] > before["term"] and view["primary"] is not None)
            await asyncio.sleep(RACE_S / 2)
        finally:
            race.stop()
            await asyncio.wait_for(racing, 60)
        assert race.acknowledged > promised, "nobody was booked after the failover"
        assert set(race.answers) <= {200, 201, 409, 503}, race.answers
        assert race.answers[409] > 0, "nobody had to fight"
        after = await cluster.wait_healthy()
        assert after["primary"] != before["primary"]
        target = Target(cluster.ready_file)
        findings = check(race.operations, await target.rows(after["primary"]))
        assert findings == []
        async with cluster.sql(after["primary"]) as connection:
            assert await connection.fetchval("SELECT locum_double_booked()") == 0
        print(f"\n{race.acknowledged} promises by {CLIENTS} clients in {RACE_S:g} s; answers {dict(race.answers)}")
