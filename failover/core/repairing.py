"""What a damaged primary that is all that is left can do for itself: make the indexes over damaged pages anew. Pure.

While another node may take its place it is replaced instead; so this comes only after it was left alone (standing_by.shrink).
"""

from __future__ import annotations

from failover.core.candidate import CONTENT_FAULTS, INTEGRITY_FAULTS, is_eligible
from failover.core.context import Context, Plan
from replication.actions import Reindex
from replication.model import FaultKind, Place

_REPAIRABLE = CONTENT_FAULTS | {FaultKind.INDEX_CORRUPT}


def repair_alone(context: Context) -> Plan | None:
    """Make the indexes of its damaged tables anew, once for each place that is named."""
    name, state = context.state.primary, context.state
    report = context.report(name)
    if name is None or report is None or not context.is_open_primary() or report.names or not context.is_free(name):
        return None
    if context.is_paused or state.transition is not None or any(is_eligible(record) for record in state.nodes.values()):
        return None
    record = context.record(name)
    faults = [fault for fault in record.faults if fault.kind in INTEGRITY_FAULTS]
    places = tuple(place for fault in faults for place in fault.places if is_of_a_table(place))
    if not places or any(fault.kind not in _REPAIRABLE for fault in faults) or set(places) <= set(record.reindexed):
        return None
    sentence = f"{name} is all that is left, and damaged at {places[0]}: making the indexes over it anew."
    return Plan("primary.reindex", sentence, state, {name: Reindex(places, report.incarnation or "")})


def is_of_a_table(place: Place) -> bool:
    """Not a file of WAL, pg_xact or pg_control."""
    return place.relation is not None or (place.path or "").startswith(("base/", "global/", "pg_tblspc/"))
