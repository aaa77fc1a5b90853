"""Nothing is found where nothing is: every check of pages against WAL and against the peer, in a storm of DDL."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from replication.model import NodeReport
from tests.integration.replication.storm import storm
from tests.nodes import POSTGRES_15, Pair, two_nodes

LOOKS_MIN = 1_000
STORM_S = float(os.environ.get("LOCUM_STORM_S", "20"))
needs_15 = pytest.mark.skipif(not (POSTGRES_15 / "postgres").exists(), reason="no system PostgreSQL 15")
FAST = {"scrub_mb_per_s": 0.0, "compare_mb_per_s": 0.0, "scrub_pause_s": 0.1, "scrub_latency_ms_max": 60_000}


def found(report: NodeReport) -> list[str]:
    return [fault.sentence + str(fault.evidence) for fault in (*report.faults, *report.upstream_faults)]


async def reports(pair: Pair) -> list[NodeReport]:
    return [await node.report() for node in (pair.a, pair.b)]


def has_looked(compared: int, seen: list[NodeReport]) -> bool:
    """Enough to say that nothing was found. On a slow machine that takes longer than the storm is to last at least."""
    ledgers = [report.ledger for report in seen if report.ledger is not None]
    return compared > LOOKS_MIN and len(ledgers) == 2 and all(one.verified_blocks > LOOKS_MIN for one in ledgers)


@pytest.mark.timeout(STORM_S + 280)
@pytest.mark.parametrize("bindir", [None, pytest.param(POSTGRES_15, marks=[needs_15, pytest.mark.postgres15])])
async def test_a_storm_of_ddl_raises_no_alarm(tmp_path: Path, bindir: Path | None) -> None:
    async with two_nodes(tmp_path, bindir=bindir, **FAST) as pair:
        await pair.stream()
        compared, passes, last = 0, 0, 0
        async with storm(pair, pause_s=0.05 if bindir is None else 0.5, writers=1) as rounds:
            until = time.monotonic() + STORM_S
            while time.monotonic() < until or rounds[0] < 1 or not has_looked(compared, await reports(pair)):
                await asyncio.sleep(0.5)
                for report in await reports(pair):
                    assert not found(report), "\n".join(found(report))
                status = (await pair.b.report()).comparison_of_pages
                if status is not None:
                    compared, passes, last = status.compared, status.passes, status.pages
        a, b = await reports(pair)
        assert a.ledger is not None and b.ledger is not None and a.scrub is not None
        print(
            f"\n{bindir or 18}: {rounds[0]} rounds, {compared} page comparisons in {passes} passes of {last}, "
            f"verified {a.ledger.verified_blocks} and {b.ledger.verified_blocks} blocks after checkpoints, "
            f"{a.ledger.images} and {b.ledger.images} images, lag {a.ledger.lag_bytes} and {b.ledger.lag_bytes} bytes, "
            f"{a.scrub.passes} passes over {a.scrub.pages} pages"
        )
        assert has_looked(compared, [a, b])
        assert not found(a) + found(b), found(a) + found(b)
