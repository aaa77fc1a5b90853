"""What became of a drill: the measurements, and whether what was expected holds. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise

import msgspec

from failover.drill.checker import Finding
from failover.drill.history import Operation, Outcome
from failover.drill.scenario import ANY_VERDICT, Expect


class Result(StrEnum):
    """`unknown`: the drill itself broke down, so nothing was shown; never a pass."""

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a drill measured from outside. `lost_writes` is the RPO as measured, `gap_ms` the RTO as a patient sees it."""

    operations: int
    acknowledged: int
    failed: int
    gap_ms: int | None
    slowest_ms: int
    lost_writes: int
    verdicts: tuple[str, ...]
    blamed: tuple[tuple[str, str], ...] = ()
    """(verdict, whom it named): `primary` and `standby` as they were before the fault."""
    new_primary: bool
    healthy_again_s: float | None
    named_after_s: float | None = None
    suspected_after_s: float | None = None


def gap_ms(operations: Sequence[Operation], since_s: float) -> int | None:
    """The longest time between two acknowledged writes that follow each other, from the last one before `since_s`.

    None when none came afterwards.
    """
    ended = sorted(
        operation.ended_s
        for operation in operations
        if operation.is_acknowledged_write and operation.ended_s is not None
    )
    moments = [
        *[moment for moment in ended if moment <= since_s][-1:],
        *[moment for moment in ended if moment > since_s],
    ]
    if len(moments) < 2:
        return None
    return round(1000 * max(later - earlier for earlier, later in pairwise(moments)))


def slowest_ms(operations: Sequence[Operation]) -> int:
    """The longest that anybody waited for an answer."""
    waits = (operation.ended_s - operation.began_s for operation in operations if operation.ended_s is not None)
    return round(1000 * max(waits, default=0.0))


def failed(operations: Sequence[Operation]) -> int:
    """Requests that were not answered, or not with an answer that says what happened."""
    return sum(operation.outcome is Outcome.UNKNOWN for operation in operations)


def objections(expect: Expect, measured: Measured, findings: Sequence[Finding]) -> list[str]:
    """Everything that is not as expected, a sentence each."""
    said = [f"{finding.kind}: {finding.appointment}: {finding.sentence}" for finding in findings]
    if measured.failed > expect.failed_max:
        said.append(f"{measured.failed} requests failed, at most {expect.failed_max} may")
    if expect.stops:
        if measured.healthy_again_s is None:
            said.append("the cluster serves, and it had to stop: what serves may lack what was acknowledged")
        return said
    if measured.gap_ms is None:
        said.append("no write was acknowledged after the fault")
    elif measured.gap_ms > expect.gap_ms_max:
        said.append(f"no write was acknowledged for {measured.gap_ms} ms, at most {expect.gap_ms_max} ms may pass")
    if expect.new_primary not in ("either", measured.new_primary):
        said.append("another node was promoted" if measured.new_primary else "no other node was promoted")
    if ANY_VERDICT in expect.verdicts:
        pass
    elif expect.verdicts and not set(measured.verdicts) & set(expect.verdicts):
        named = ", ".join(measured.verdicts) or "nothing"
        said.append(f"the verdict named {named}, not {' or '.join(expect.verdicts)}")
    elif not expect.verdicts and measured.verdicts:
        said.append(f"an incident named {', '.join(measured.verdicts)} where there was nothing to name")
    if measured.healthy_again_s is None:
        said.append("the cluster did not become healthy again")
    elif measured.healthy_again_s > expect.healthy_within_s:
        said.append(
            f"healthy again after {measured.healthy_again_s:.0f} s, at most {expect.healthy_within_s:.0f} s may pass"
        )
    return said
