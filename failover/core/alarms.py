"""Alarms that stand as long as their cause: derived anew in every tick, so that none is forgotten or left behind."""

from __future__ import annotations

from failover.core.candidate import UNFIT_FAULTS, carries_integrity_fault, is_eligible, is_foreign
from failover.core.context import with_alarm
from failover.core.model import Observation, State
from failover.core.receipts import FRESH_SERVER_MS, checked_receipts, is_whole, sentence_of

LEDGER_LAG_BYTES_MAX = 64_000_000
"""As much WAL as every node keeps (`wal_keep_size`)."""


def note_alarms(state: State, observation: Observation) -> State:
    """The state with these alarms raised or cleared; `no_primary` belongs to the rules that know the next step."""
    for name, sentence in _standing(state, observation).items():
        state = with_alarm(state, name, observation.at, sentence)
    return state


def _standing(state: State, observation: Observation) -> dict[str, str | None]:
    standbys = [name for name in sorted(state.nodes) if name != state.primary]
    found: dict[str, str | None] = {
        "no_standby": _no_standby(state, standbys),
        "rebuild_blocked": _rebuild_blocked(state, observation, standbys),
    }
    found["receipts_lost"] = _receipts_lost(state, observation)
    found["receipts_failing"] = _receipts_failing(observation)
    for name in sorted(state.nodes):
        found[f"damaged_{name}"] = _damaged(state, name)
        found[f"suspected_{name}"] = _suspected(observation, name)
        found[f"ledger_behind_{name}"] = _ledger_behind(observation, name)
    for name in standbys:
        report = observation.nodes.get(name)
        if report is not None:
            sentence = f"the data directory of {name} is not this cluster's: it is left alone; next: move it away"
            found[f"foreign_data_{name}"] = sentence if is_foreign(state, report) else None
    return found


def _no_standby(state: State, standbys: list[str]) -> str | None:
    if not state.history or state.transition is not None or any(is_eligible(state.nodes[name]) for name in standbys):
        return None
    reasons = ", ".join(f"{name}: {state.nodes[name].eligible_reason}" for name in standbys)
    return f"nothing may be promoted if {state.primary} fails ({reasons})"


def _receipts_lost(state: State, observation: Observation) -> str | None:
    """Somebody was told of a booking that is not there any more."""
    check = checked_receipts(state, observation) or state.incident_receipts
    if check is None or is_whole(check):
        return None
    listed = f" ({', '.join(check.missing)})" if check.missing else ""
    close = f", then locum incident close {state.incident} --note ..." if state.incident is not None else ""
    if check.lost == 0 and check.double_booked == 0:
        return f"{sentence_of(check)} Nothing of it is lost; next: REINDEX what is named, or restore the table{close}"
    return f"{sentence_of(check)} The appointments{listed} must be looked at; next: call those patients{close}"


def _receipts_failing(observation: Observation) -> str | None:
    problems = [
        f"server {seen.report.server}: {seen.report.receipts_problem}"
        for seen in observation.servers
        if seen.age_ms <= FRESH_SERVER_MS and seen.report.receipts_problem is not None
    ]
    if not problems:
        return None
    return f"receipts do not reach their disk ({'; '.join(problems)}); bookings go on; next: mend that disk"


def _damaged(state: State, name: str) -> str | None:
    """Damage that is journalled: on a standby it is being repaired, on a primary that stays one a person must know."""
    fault = next((fault for fault in state.nodes[name].faults if fault.kind in UNFIT_FAULTS), None)
    if fault is None:
        return None
    if name != state.primary or state.transition is not None:
        return f"{name} is damaged and will be rebuilt: {fault.sentence}"
    others = [other for other in sorted(state.nodes) if other != name]
    ways = " or ".join(f"locum failover --to {other} --accept-damage" for other in others)
    able = [other for other in others if is_eligible(state.nodes[other]) and not state.nodes[other].faults]
    if able:
        return (
            f"{name}, the primary, is damaged: {fault.sentence}; {able[0]} takes its place once it is known to be clean"
        )
    return f"{name}, the primary, is damaged and nothing may take its place: {fault.sentence}; next: {ways}"


def _suspected(observation: Observation, name: str) -> str | None:
    """Something speaks against a node, and proves nothing."""
    report = observation.nodes.get(name)
    found = [fault for fault in report.faults if not fault.is_proof] if report is not None else []
    if not found:
        return None
    return f"{found[0].sentence}; that proves nothing against {name} yet; next: look at its disk, or locum switchover"


def _ledger_behind(observation: Observation, name: str) -> str | None:
    """What it has not read when WAL is recycled is never checked."""
    report = observation.nodes.get(name)
    if report is None or report.ledger is None or report.ledger.lag_bytes <= LEDGER_LAG_BYTES_MAX:
        return None
    behind_mb = report.ledger.lag_bytes // 1_000_000
    why = f" ({report.ledger.problem})" if report.ledger.problem is not None else ""
    return (
        f"{name} reads its own WAL {behind_mb} MB behind{why}: a write that its disk lost may be missed; "
        "next: look at its processor and at the pace of writes"
    )


def _rebuild_blocked(state: State, observation: Observation, standbys: list[str]) -> str | None:
    source = observation.nodes.get(state.primary or "")
    waiting = next((name for name in standbys if state.nodes[name].needs_rebuild), None)
    if source is None or waiting is None or not carries_integrity_fault(state.nodes[source.node], source):
        return None
    if state.nodes[waiting].rebuild_accepts_damage:
        return None
    return (
        f"{waiting} must be rebuilt and {source.node} carries an integrity fault; "
        f"next: repair {source.node}, or locum rebuild {waiting} --accept-damage"
    )
