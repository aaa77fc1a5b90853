"""pg_control as pg_controldata tells it: who the cluster is, how it was left, where recovery would begin."""

from __future__ import annotations

import msgspec

from replication.errors import ActionFailed
from replication.model import Reason, parse_lsn
from replication.node import Node
from replication.tools import run_tool

_DEADLINE_S = 5.0


class ControlData(msgspec.Struct, frozen=True):
    """`state` as pg_controldata words it (`in production`, `shut down`, …); LSNs as integers.

    `timeline` is that of the latest checkpoint; `minimum_recovery_lsn` (0: none) and its timeline are a standby's.
    """

    system_identifier: str
    state: str
    timeline: int
    checkpoint_lsn: int
    redo_lsn: int
    redo_wal_file: str
    minimum_recovery_lsn: int
    minimum_recovery_timeline: int
    data_checksums: bool


async def read_control(node: Node) -> ControlData:
    """Read the local node's pg_control. Raises ActionFailed(FAILED) when there is none or its CRC is wrong."""
    command = node.installation.command("pg_controldata", str(node.data_dir))
    output = await run_tool(command, deadline_s=_DEADLINE_S, warnings=True)
    return parse_control(output.decode(errors="replace"))


def parse_control(text: str) -> ControlData:
    """pg_controldata's output (src/bin/pg_controldata/pg_controldata.c). Raises ActionFailed(FAILED)."""
    if "CRC checksum does not match" in text:
        raise ActionFailed(Reason.FAILED, "pg_control is damaged: its CRC does not fit")
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    try:
        return ControlData(
            system_identifier=fields["Database system identifier"],
            state=fields["Database cluster state"],
            timeline=int(fields["Latest checkpoint's TimeLineID"]),
            checkpoint_lsn=parse_lsn(fields["Latest checkpoint location"]),
            redo_lsn=parse_lsn(fields["Latest checkpoint's REDO location"]),
            redo_wal_file=fields["Latest checkpoint's REDO WAL file"],
            minimum_recovery_lsn=parse_lsn(fields["Minimum recovery ending location"]),
            minimum_recovery_timeline=int(fields["Min recovery ending loc's timeline"]),
            data_checksums=fields["Data page checksum version"] != "0",
        )
    except (KeyError, ValueError) as error:
        raise ActionFailed(Reason.FAILED, f"pg_controldata said something unexpected: {error!r}") from error
