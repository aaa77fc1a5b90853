"""Errors of the SQL probe and the faults they stand for."""

from __future__ import annotations

import asyncpg
import pytest

from replication.errors import ActionFailed
from replication.faults import fault_of
from replication.model import FaultKind, Reason


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ActionFailed(Reason.DEADLINE, "late"), FaultKind.UNRESPONSIVE),
        (TimeoutError(), FaultKind.UNRESPONSIVE),
        (asyncpg.TooManyConnectionsError("full"), FaultKind.OVERLOAD),
        (asyncpg.DataCorruptedError("page"), FaultKind.PAGE_CORRUPT),
        (asyncpg.IndexCorruptedError("index"), FaultKind.INDEX_CORRUPT),
        (asyncpg.DiskFullError("full"), FaultKind.STORAGE_FULL),
        (asyncpg.PostgresIOError("io"), FaultKind.STORAGE_ERROR),
        (asyncpg.CannotConnectNowError("starting up"), None),
        (asyncpg.ConnectionDoesNotExistError("ended"), None),
        (ConnectionRefusedError(), None),
    ],
)
def test_fault_of(error: Exception, kind: FaultKind | None) -> None:
    assert fault_of(error) is kind
