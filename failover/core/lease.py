"""Who may be told that it is the primary, which is what extends its node lease (DESIGN section 4). Pure."""

from __future__ import annotations

from failover.core.model import Observation, State
from replication.model import NodeReport


def renewable(state: State, observation: Observation) -> NodeReport | None:
    """The answer of the primary that a renewal refers to; None when there is none, or none may go out.

    Never once a promotion of another is journalled: from then on its lease must run out.
    """
    if state.transition is not None and state.transition.step == "promoting":
        return None
    report = observation.nodes.get(state.primary or "")
    return report if report is not None and report.lease_expires_in_ms is not None else None
