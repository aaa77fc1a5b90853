"""What an accepted action changes in the agent's state before it runs: pure, persisted in the same write as its revision.

The intention goes to disk first: an agent that dies between the two writes finishes a change when it comes back (it
renders its files from the state) and never takes a later one back.
"""

from __future__ import annotations

from typing import Any

from replication import actions
from replication.actions import Op
from replication.model import Role, Stage
from replication.state_dir import AgentState


def intent(op: Op, state: AgentState, revision: int) -> dict[str, Any]:
    """Fields of AgentState that hold from the acceptance of `op` on."""
    match op:
        case actions.StartPrimary():
            return {
                "configured_role": Role.PRIMARY,
                "configured_name": None,
                "upstream": None,
                "slot": None,
                "stop_before_lsn": None,
                "stage": Stage.CLOSED,
                "names": op.names,
                "names_revision": revision,
                "growth": None,
            }
        case actions.StartStandby():
            return {
                "configured_role": Role.STANDBY,
                "configured_name": op.name,
                "upstream": op.upstream,
                "slot": op.slot,
                "stop_before_lsn": op.stop_before_lsn,
                "stage": None,
                "names": (),
                "names_revision": revision,
                "growth": None,
            }
        case actions.SetNames():
            return {"names": op.names, "names_revision": revision}
        case actions.Grow():
            return {"names": (op.name,), "names_revision": revision, "growth": None}
        case actions.Promote():
            return {"upstream": None, "slot": None}
        case actions.ReadPlaces():
            return {"places_read": None}
        case actions.CheckReceipts():
            return {"receipts_found": None}
        case actions.CompareWal():
            return {"comparison": None}
        case actions.Fence():
            return {"fenced": True, "fence_held": state.fence_held or op.hold}
        case actions.Rebuild():
            return {
                "certificate": None,
                "places_read": None,
                "rebuilt_revision": 0,
                "configured_role": None,
                "configured_name": None,
            }
    return {}
