"""A broken build: a standby follows although its history is not the primary's, and what it confirms counts.

The receipts would still find out before it is promoted, so they are not looked at either.
"""

import runpy
from pathlib import Path

import msgspec

from failover.core import candidate, settle, standing_by
from failover.core.candidate import Candidacy
from replication import closed_start, starting
from replication.model import Comparison

_true = closed_start.compare_wal


async def _equal(node, client, peer_name, revision):
    found = await _true(node, client, peer_name, revision)
    if found.outcome is Comparison.WAL_LOST:
        found = msgspec.structs.replace(found, outcome=Comparison.EQUAL)
    return found


async def _proved(node, client, upstream_name):
    return None


closed_start.compare_wal = starting.compare_wal = _equal
closed_start.prove_history = starting.prove_history = _proved
standing_by.may_grow.__code__ = (lambda context, report, primary, flush_lsn: flush_lsn is not None).__code__
standing_by.must_relax.__code__ = (lambda context, name, primary: False).__code__
settle.growth_is_proved.__code__ = (lambda pending, op, primary, standby: True).__code__


def _able(record, report, policy):
    return Candidacy.PROMOTABLE if report.in_recovery is True else Candidacy.NOT_RUNNING


candidate._able = _able
runpy.run_path(str(Path(__file__).parents[1] / "receipts_unchecked" / "sitecustomize.py"))
