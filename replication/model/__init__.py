"""The words that agents, controller and drills share: pure values, no I/O.

Every type here crosses a process boundary as JSON through msgspec; durations and clocks are integers in milliseconds.
"""

from __future__ import annotations

from replication.model.faults import FREE_SPACE_MAP, PROOF_CONFIDENCE_MIN, Cause, Evidence, Fault, FaultKind, Place
from replication.model.lsn import (
    WAL_SEGMENT_BYTES,
    WAL_SEGMENT_MB,
    Lsn,
    NodeName,
    Revision,
    Term,
    format_lsn,
    parse_lsn,
)
from replication.model.node import (
    ActionResult,
    Certificate,
    Comparison,
    DataDirectory,
    Doing,
    Growth,
    PlacesRead,
    PlannedStop,
    Postmaster,
    Probe,
    Reason,
    Receiver,
    RedoFailure,
    Role,
    Slot,
    Stage,
    WalComparison,
    Walsender,
    Witness,
)
from replication.model.receipts import Receipt, ReceiptCheck, ReceiptsFound, ServerReport
from replication.model.report import NodeReport
from replication.model.search import CompareStatus, LedgerStatus, ScrubStatus

__all__ = [
    "FREE_SPACE_MAP",
    "PROOF_CONFIDENCE_MIN",
    "WAL_SEGMENT_BYTES",
    "WAL_SEGMENT_MB",
    "ActionResult",
    "Cause",
    "Certificate",
    "CompareStatus",
    "Comparison",
    "DataDirectory",
    "Doing",
    "Evidence",
    "Fault",
    "FaultKind",
    "Growth",
    "LedgerStatus",
    "Lsn",
    "NodeName",
    "NodeReport",
    "Place",
    "PlacesRead",
    "PlannedStop",
    "Postmaster",
    "Probe",
    "Reason",
    "Receipt",
    "ReceiptCheck",
    "ReceiptsFound",
    "Receiver",
    "RedoFailure",
    "Revision",
    "Role",
    "ScrubStatus",
    "ServerReport",
    "Slot",
    "Stage",
    "Term",
    "WalComparison",
    "Walsender",
    "Witness",
    "format_lsn",
    "parse_lsn",
]
