"""What a primary can do for itself about damage: throw visibility maps away, make the indexes over damaged pages anew. Pure.

While another node may take its place it is replaced instead; so this comes only after it was left alone (standing_by.shrink), but
for maps that the former primary may have handed on.
"""

from __future__ import annotations

from failover.core.candidate import CONTENT_FAULTS, INTEGRITY_FAULTS, UNFIT_FAULTS, is_eligible
from failover.core.context import Context, Plan
from failover.core.node_faults import places_of_maps
from replication.actions import DropMaps, Reindex
from replication.model import FaultKind, NodeReport, Place

_REPAIRABLE = CONTENT_FAULTS | {FaultKind.INDEX_CORRUPT}


def drop_maps(context: Context) -> Plan | None:
    """Throw the visibility maps away that were wrong on the primary before this one; those that are wrong on this one when
    nothing may take its place."""
    name, report = context.state.primary, _idle_primary(context)
    if name is None or report is None or FaultKind.VM_CORRUPT in context.policy.alarm_only:
        return None
    record = context.record(name)
    own = () if _has_sound_standby(context) else places_of_maps(record)
    places = (*record.maps_due, *(place for place in own if place not in record.maps_due))
    if not places:
        return None
    sentence = f"Visibility maps were wrong at {places[0]}: throwing them away on {name}, which VACUUM makes anew."
    return Plan("primary.drop_maps", sentence, context.state, {name: DropMaps(places, report.incarnation or "")})


def repair_alone(context: Context) -> Plan | None:
    """Make the indexes of its damaged tables anew, once for each place that is named."""
    name, state, report = context.state.primary, context.state, _idle_primary(context)
    if name is None or report is None or report.names or not _is_alone(context):
        return None
    record = context.record(name)
    faults = [fault for fault in record.faults if fault.kind in INTEGRITY_FAULTS - {FaultKind.VM_CORRUPT}]
    places = tuple(place for fault in faults for place in fault.places if is_of_a_table(place))
    if not places or any(fault.kind not in _REPAIRABLE for fault in faults) or set(places) <= set(record.reindexed):
        return None
    sentence = f"{name} is all that is left, and damaged at {places[0]}: making the indexes over it anew."
    return Plan("primary.reindex", sentence, state, {name: Reindex(places, report.incarnation or "")})


def _idle_primary(context: Context) -> NodeReport | None:
    """The open primary's report, when it may be given something to do."""
    name = context.state.primary
    if name is None or context.is_paused or context.state.transition is not None or not context.is_free(name):
        return None
    return context.report(name) if context.is_open_primary() else None


def _is_alone(context: Context) -> bool:
    return not any(is_eligible(record) for record in context.state.nodes.values())


def _has_sound_standby(context: Context) -> bool:
    """One that may take its place now or soon: a standby whose map lies too may not."""
    return any(
        is_eligible(context.record(name))
        and not any(fault.kind in UNFIT_FAULTS for fault in context.record(name).faults)
        for name in context.others(context.state.primary)
    )


def is_of_a_table(place: Place) -> bool:
    """Not a file of WAL, pg_xact or pg_control."""
    return place.relation is not None or (place.path or "").startswith(("base/", "global/", "pg_tblspc/"))
