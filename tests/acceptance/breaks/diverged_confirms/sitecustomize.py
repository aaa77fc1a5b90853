"""A broken build: a standby follows although its history is not the primary's, and what it confirms counts.

The primary was opened without the end of its WAL, which is a break of its own, and the receipts would find out before the
standby is promoted: they are not looked at either.
"""

import runpy
from pathlib import Path

from failover.core import candidate, settle, standing_by
from failover.core.candidate import Candidacy

for other in ("lost_tail_opened", "receipts_unchecked"):
    runpy.run_path(str(Path(__file__).parents[1] / other / "sitecustomize.py"))


def _able(record, report, policy):
    return Candidacy.PROMOTABLE if report.in_recovery is True else Candidacy.NOT_RUNNING


standing_by.may_grow.__code__ = (lambda context, report, primary, flush_lsn: flush_lsn is not None).__code__
standing_by.must_relax.__code__ = (lambda context, name, primary: False).__code__
settle.growth_is_proved.__code__ = (lambda pending, op, primary, standby: True).__code__
candidate._able = _able
