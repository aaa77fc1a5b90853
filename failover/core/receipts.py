"""What the servers found of their receipts: an incident closes only when nothing that was acknowledged is missing. Pure."""

from __future__ import annotations

from failover.core.model import Observation, SeenServer, State
from replication.model import ReceiptCheck

FRESH_SERVER_MS = 3_000
_MISSING_MAX = 20


def checked_receipts(state: State, observation: Observation) -> ReceiptCheck | None:
    """The comparison of this term by every server that is heard from, added up; None until all of them have made it, or
    while no server is heard from at all."""
    fresh = [seen for seen in observation.servers if seen.age_ms <= FRESH_SERVER_MS]
    found = [check for seen in fresh if (check := _of_this_start(state, observation, seen)) is not None]
    if not found or len(found) < len(fresh):
        return None
    return ReceiptCheck(
        term=state.term,
        acknowledged=sum(check.acknowledged for check in found),
        present=sum(check.present for check in found),
        restored=sum(check.restored for check in found),
        lost=sum(check.lost for check in found),
        double_booked=max(check.double_booked for check in found),
        sealed=sum(check.sealed for check in found),
        missing=tuple(name for check in found for name in check.missing)[:_MISSING_MAX],
        structure=_structure(found),
        reindexed=tuple(sorted({name for check in found for name in check.reindexed})),
    )


def began_ms(state: State, observation: Observation) -> int:
    """When the oldest of these comparisons began, on the controller's clock; 0 without any."""
    fresh = [seen for seen in observation.servers if seen.age_ms <= FRESH_SERVER_MS]
    found = [(seen, check) for seen in fresh if (check := _of_this_start(state, observation, seen)) is not None]
    return min((observation.now_ms - seen.age_ms - check.began_ms_ago for seen, check in found), default=0)


def _of_this_start(state: State, observation: Observation, seen: SeenServer) -> ReceiptCheck | None:
    """A comparison in this term that began after the primary's last start was decided."""
    check = seen.report.receipts
    if check is None or check.term != state.term:
        return None
    began_ms = observation.now_ms - seen.age_ms - check.began_ms_ago
    return check if began_ms >= state.started_ms else None


def _structure(found: list[ReceiptCheck]) -> tuple[str, ...] | None:
    """What any server was told by amcheck; None when none of them had it made."""
    said = [check.structure for check in found if check.structure is not None]
    return tuple(sorted({sentence for one in said for sentence in one}))[:_MISSING_MAX] if said else None


def is_whole(check: ReceiptCheck) -> bool:
    """Everything that was acknowledged is there, once, and what leads to it is sound."""
    return check.lost == 0 and check.double_booked == 0 and not check.structure


def sentence_of(check: ReceiptCheck) -> str:
    """The comparison in words."""
    restored = f", {check.restored} restored" if check.restored else ""
    doubled = f", {check.double_booked} double-booked" if check.double_booked else ""
    sealed = f"; {check.sealed} seals fit" if check.sealed else ""
    structure = ""
    if check.structure is not None:
        structure = f" amcheck of the booking tables: {'; '.join(check.structure) or 'nothing found'}."
    if check.reindexed:
        structure += f" Made anew: the indexes of {', '.join(check.reindexed)}."
    return (
        f"{check.acknowledged} acknowledged writes were compared with the primary: "
        f"{check.present} present{restored}, {check.lost} lost{doubled}{sealed}.{structure}"
    )
